"""The Faust app under a worker: it finds out which partitions are ours and brings their records to the log's feeds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import faust
from faust.types import TP

from connectors.kafka.settings import KafkaSettings
from connectors.kafka.transport import SCHEME, Batch, Consumer
from ops.kafka_partition import Places

if TYPE_CHECKING:
    from connectors.kafka.log import KafkaLog

SESSION_S = 10.0  # a worker that is not heard of for so long loses its partitions
HEARTBEATS = 5  # in a session
REBALANCE_S = 60.0  # everybody has finished a batch by then
NEVER_S = 86_400.0  # Faust commits by timer what its own agents took; ours is committed with the manifest
POLL_RECORDS_MAX = 32_768

Rebalanced = Callable[[set[int]], Awaitable[None]]

for _name in ("faust", "mode", "aiokafka"):  # what matters is told as a problem; who wants more sets a handler
    logging.getLogger(_name).addHandler(logging.NullHandler())


class GroupMember(faust.App):
    """A member of the app's consumer group.

    Args:
        group: its name, the app's.
        settings: where Kafka is.
        log: whose feeds get what is fetched.
        topics: the inputs; all with as many partitions.
        on_revoked: awaited with the partitions that must be let go, before anybody else gets them.
        on_assigned: awaited with all that are ours now; quickly: no heartbeat is sent meanwhile.
        on_gone: told of a partition whose position retention removed.
        session_s: how long a silent worker keeps its partitions.
    """

    def __init__(
        self,
        group: str,
        settings: KafkaSettings,
        log: KafkaLog,
        topics: Sequence[str],
        on_revoked: Rebalanced,
        on_assigned: Rebalanced,
        on_gone: Callable[[TP, int], None],
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
            broker_commit_interval=NEVER_S if not self.has_agents else 1.0,
            consumer_auto_offset_reset="earliest",
            stream_wait_empty=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
        )
        self.steered = frozenset(topics)
        self._log, self._full = log, set[TP]()
        self._on_revoked, self._on_assigned, self._on_gone = on_revoked, on_assigned, on_gone
        self.agent(self.topic(*topics, value_serializer="raw", acks=False), name="feed")(self._feed)  # type: ignore[arg-type]
        self.on_partitions_revoked.connect(self._revoked)  # type: ignore[arg-type]
        self.on_partitions_assigned.connect(self._assigned)  # type: ignore[arg-type]

    has_agents = False

    @property
    def reader(self) -> Consumer:
        """The transport's consumer."""
        consumer: Any = self.consumer
        return consumer

    async def _feed(self, stream: AsyncIterator[Any]) -> None:
        async for event in stream.events():  # type: ignore[attr-defined]
            tp, batch = event.message.tp, event.message.value
            if self.reader.is_current(tp, batch):
                self._take(tp, batch)

    def _take(self, tp: TP, batch: Batch) -> None:
        if not self._log.feed(tp.topic, tp.partition, batch.messages, batch.last_stable):
            return
        if self._log.is_full(tp.topic, tp.partition):
            self._full.add(tp)
            self.reader.close_partitions([tp])

    async def _revoked(self, sender: object, revoked: Iterable[TP], **_: object) -> None:
        await self._on_revoked(self._numbers(revoked))

    async def _assigned(self, sender: object, assigned: Iterable[TP], **_: object) -> None:
        await self._on_assigned(self._numbers(assigned))

    def _numbers(self, tps: Iterable[TP]) -> set[int]:
        return {tp.partition for tp in tps if tp.topic in self.steered}

    async def on_offsets_gone(self, gone: dict[TP, int]) -> None:
        """Tell of positions that retention removed (called by the transport)."""
        for tp, offset in gone.items():
            self._on_gone(tp, offset)

    def begin(self, places: Places) -> None:
        """Bring what comes from these offsets on; in the loop."""
        for (topic, partition), offset in places.items():
            self._full.discard(TP(topic, partition))
            self._log.start_feed(topic, partition, offset)
        self.reader.start_at({TP(*place): offset for place, offset in places.items()})

    def halt(self, places: Places) -> None:
        """Bring nothing more; in the loop."""
        self.reader.close_partitions([TP(*place) for place in places])

    def relieve(self) -> None:
        """Open what the log has room for again; in the loop."""
        open_again = [tp for tp in self._full if not self._log.is_full(tp.topic, tp.partition)]
        self._full.difference_update(open_again)
        if open_again:
            self.reader.open_partitions(open_again)

    @property
    def full(self) -> set[TP]:
        """What is held back because the log is full."""
        return self._full

    def _create_directories(self) -> None:
        """Make none: nothing of Faust's is kept."""


class LoopReading:
    """A partition's hold on its reading, from its thread; whoever is the member at the moment does it in the loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, log: KafkaLog, member: Callable[[], GroupMember | None]
    ) -> None:
        self._loop, self._log, self._member = loop, log, member

    def begin(self, places: Places) -> None:
        """Bring what comes from these offsets on."""
        self._do(lambda member: member.begin(places))

    def halt(self, places: Places) -> None:
        """Bring nothing more."""
        for topic, partition in places:
            self._log.stop_feed(topic, partition)
        self._do(lambda member: member.halt(places))

    def relieve(self, places: Places) -> None:
        """Go on where the log was full, and is not any more."""
        member = self._member()
        if member is not None and member.full:
            self._do(GroupMember.relieve)

    def _do(self, work: Callable[[GroupMember], None]) -> None:
        def now() -> None:
            member = self._member()
            if member is not None:
                work(member)

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(now)
