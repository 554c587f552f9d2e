"""The Faust app under a worker: it finds out which partitions are ours and brings their records to the log's feeds."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import faust
import pyarrow as pa
from faust.types import TP

from connectors.kafka.codec import message_offset
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.transport import SCHEME, Batch, Consumer
from ops.kafka.agents import Agents
from ops.kafka.partition import Places

if TYPE_CHECKING:
    from connectors.kafka.log import KafkaLog

SESSION_S = 10.0  # a worker that is not heard of for so long loses its partitions
HEARTBEATS = 10  # in a session
REBALANCE_S = 60.0  # everybody has finished a batch by then
AGENTS_COMMIT_S = 1.0  # Faust commits by timer what agents took; what decides is committed with its manifest
POLL_RECORDS_MAX = 32_768

ARROW = pa.schema([])  # any schema without metadata: see KafkaLog.create_topic

Rebalanced = Callable[[set[int]], Awaitable[None]]

for _name in ("faust", "mode", "aiokafka"):  # what matters is told as a problem; who wants more sets a handler
    logging.getLogger(_name).addHandler(logging.NullHandler())


class GroupMember(faust.App):
    """A member of the app's consumer group.

    Args:
        group: its name, the app's.
        settings: where Kafka is.
        log: whose feeds get what is fetched.
        reading: which of them are wanted.
        topics: the inputs; all with as many partitions.
        on_revoked: awaited with the partitions that must be let go, before anybody else gets them.
        on_assigned: awaited with all that are ours now; quickly: no heartbeat is sent meanwhile.
        on_gone: told of a partition whose position retention removed.
        agents: of the app.
        session_s: how long a silent worker keeps its partitions.
    """

    def __init__(
        self,
        group: str,
        settings: KafkaSettings,
        log: KafkaLog,
        reading: MemberReading,
        topics: Sequence[str],
        on_revoked: Rebalanced,
        on_assigned: Rebalanced,
        on_gone: Callable[[TP, int], None],
        agents: Agents,
        session_s: float = SESSION_S,
    ) -> None:
        arguments = settings.faust()
        arguments["broker"] = [each.replace("kafka://", f"{SCHEME}://", 1) for each in arguments["broker"]]
        super().__init__(
            group,
            **arguments,
            broker_session_timeout=session_s,
            broker_heartbeat_interval=session_s / HEARTBEATS,
            broker_request_timeout=max(90.0, session_s),
            broker_rebalance_timeout=REBALANCE_S,
            broker_max_poll_records=POLL_RECORDS_MAX,
            broker_commit_interval=AGENTS_COMMIT_S,
            consumer_auto_offset_reset="earliest",
            stream_wait_empty=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
        )
        self.steered = frozenset(topics)
        self._log, self._start_feed, self._full = log, reading.start_feed, set[TP]()
        self._on_revoked, self._on_assigned, self._on_gone = on_revoked, on_assigned, on_gone
        self.agent(self.topic(*topics, acks=False), name="inputs")(_nothing)
        agents.register(self)
        self.on_partitions_revoked.connect(self._revoked)
        self.on_partitions_assigned.connect(self._assigned)

    @property
    def reader(self) -> Consumer:
        """The transport's consumer."""
        consumer: Any = self.consumer
        return consumer

    def reads_from(self, tp: TP, offset: int) -> None:
        """Let the log expect what comes (called by the transport)."""
        self._full.discard(tp)
        self._start_feed(tp.topic, tp.partition, offset)

    def take(self, tp: TP, batch: Batch) -> bool:
        """Bring a batch to the log; False if that has enough for now (called by the transport)."""
        if not self._log.feed(tp.topic, tp.partition, batch.messages, batch.last_stable):
            return False  # the partition is being let go
        if self._log.is_full(tp.topic, tp.partition):
            self._full.add(tp)
            if self._log.is_full(tp.topic, tp.partition):  # still: nobody made room before it was noted
                return False
            self._full.discard(tp)
        return True

    def gone(self, tp: TP, offset: int) -> None:
        """Tell of a position that retention removed (called by the transport)."""
        self._on_gone(tp, offset)

    async def _revoked(self, sender: object, revoked: Iterable[TP], **_: object) -> None:
        await self._on_revoked(self._numbers(revoked))

    async def _assigned(self, sender: object, assigned: Iterable[TP], **_: object) -> None:
        await self._on_assigned(self._numbers(assigned))

    def _numbers(self, tps: Iterable[TP]) -> set[int]:
        return {tp.partition for tp in tps if tp.topic in self.steered}

    def relieve(self, places: Places) -> None:
        """Open what the log has room for again; any thread may call."""
        if not self._full:
            return
        for tp in [TP(*place) for place in places]:
            if tp in self._full and not self._log.is_full(tp.topic, tp.partition):
                self._full.discard(tp)
                self.reader.open_partitions([tp])

    def _create_directories(self) -> None:
        """Make none: nothing of Faust's is kept."""


async def _nothing(stream: AsyncIterable[object]) -> None:
    """Subscribe: Faust waits for an agent before it reads anything; batches of steered topics go past it."""
    async for _ in stream:
        pass


class MemberReading:
    """A partition's hold on its reading, from its thread; whoever is the member at the moment does it.

    Args:
        log: that is fed.
        member: returns who is the member now.
        rows: topics of Arrow batches, whose rows have offsets of their own.
    """

    def __init__(self, log: KafkaLog, member: Callable[[], GroupMember | None], rows: Collection[str] = ()) -> None:
        self._log, self._member, self._rows = log, member, frozenset(rows)
        self._wanted: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def messages_at(self, places: Places) -> dict[TP, int]:
        """Return the offsets of the messages that hold these records or rows."""
        return {
            TP(topic, partition): message_offset(offset, ARROW if topic in self._rows else None)
            for (topic, partition), offset in places.items()
        }

    def begin(self, places: Places) -> None:
        """Bring what comes from these offsets on."""
        with self._lock:
            self._wanted.update(places)
        if member := self._member():
            member.reader.start_at(self.messages_at(places))

    def halt(self, places: Places) -> None:
        """Bring nothing more."""
        with self._lock:
            self._wanted.difference_update(places)
            for topic, partition in places:
                self._log.stop_feed(topic, partition)
        if member := self._member():
            member.reader.close_partitions([TP(*place) for place in places])

    def start_feed(self, topic: str, partition: int, offset: int) -> None:
        """Let the log expect what comes, unless it was halted since: then a feed would bring nothing, for ever."""
        with self._lock:
            if (topic, partition) in self._wanted:
                self._log.start_feed(topic, partition, offset)

    def relieve(self, places: Places) -> None:
        """Go on where the log was full, and is not any more."""
        if member := self._member():
            member.relieve(places)
