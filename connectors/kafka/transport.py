"""A transport for Faust that takes whole polls: one message per partition and poll, its value all their records.

`faust.App(..., broker="pelton://HOST:PORT")`, after this module was imported. Differences to Faust's own transport:

- The value of a message is a `Batch` of columns, values and keys, headers and times; its offset the last one.
- Readers see committed records only.
- A position that retention removed is an error, never a silent jump.
- Steered topics, those of an app that is a `Steering`, are read from where `Consumer.start_at` says, and not before.
  Their batches do not take Faust's way through streams, which drops what is on its way when a rebalance begins, and
  goes back to the group's offsets afterwards: the app gets them at once, in the thread that fetched them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol, runtime_checkable

import aiokafka
from aiokafka.errors import ConsumerStoppedError, IllegalStateError, KafkaError, OffsetOutOfRangeError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport import drivers
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from connectors.kafka.assignor import TogetherAssignor
from connectors.kafka.fetching import ColumnConsumer
from connectors.kafka.messages import Messages

SCHEME = "pelton"
FETCH_WAIT_MS = 200  # a broker with nothing new answers after this; a partition that is opened waits no longer for it
FETCH_BYTES_MAX = 4 << 20  # of one partition in one answer
POLL_RECORDS_MAX = 16_384
NOTE_S_MAX = 1.0  # the group's offsets are for tools only: nobody waits long for them


@dataclass(frozen=True)
class Batch:
    """What one poll found in one partition.

    Attributes:
        messages: committed ones in order; none, where only markers of transactions were passed over.
        last_stable: the partition's end for readers of committed messages, as far as is known.
    """

    messages: Messages
    last_stable: int

    def __len__(self) -> int:
        return len(self.messages)


@runtime_checkable
class Steering(Protocol):
    """An app that says from where some topics are read; called in the consumer's thread, so it must not wait.

    Attributes:
        steered: names of these topics.
    """

    steered: frozenset[str]

    def reads_from(self, tp: TP, offset: int) -> None:
        """Expect batches of this partition, from this offset on without a gap."""

    def take(self, tp: TP, batch: Batch) -> bool:
        """Take a batch; False holds the partition back until `Consumer.open_partitions`."""

    def gone(self, tp: TP, offset: int) -> None:
        """Learn that retention removed the position of a partition; nothing is read there any more."""


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Runs the client in a thread of its own, so that nothing of the app's delays a heartbeat."""

    consumer: Consumer

    def __post_init__(self) -> None:
        super().__post_init__()
        self._open: set[tuple[str, int]] = set()  # only what is in here is given out by polls
        self._opened_s = monotonic()
        self._noting: asyncio.Future[bool] | None = None

    def _create_worker_consumer(self, transport: Any) -> ColumnConsumer:
        conf = self.app.conf
        self._assignor = TogetherAssignor()
        return ColumnConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_poll_records=conf.broker_max_poll_records or POLL_RECORDS_MAX,
            max_partition_fetch_bytes=conf.consumer_max_fetch_size or FETCH_BYTES_MAX,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            check_crcs=conf.broker_check_crcs,
            request_timeout_ms=_ms(conf.broker_request_timeout),
            session_timeout_ms=_ms(conf.broker_session_timeout),
            rebalance_timeout_ms=_ms(conf.broker_rebalance_timeout),
            heartbeat_interval_ms=_ms(conf.broker_heartbeat_interval),
            max_poll_interval_ms=_ms(conf.broker_max_poll_interval or 300),
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Hold the steered partitions before anything of them is fetched."""
        steered = [_plain(tp) for tp in assigned if self.consumer.is_steered(tp)]
        self._ensure_consumer().pause(*steered)
        self._open.clear()
        await super().on_partitions_assigned(assigned, generation_id)

    async def _fetch_records(  # whole batches instead of lists
        self, consumer: Any, active_partitions: Any, timeout: float | None = None, max_records: int | None = None
    ) -> dict[TopicPartition, Batch]:
        """Return batches of Faust's own topics, and let the app take the others meanwhile."""
        until_s = monotonic() + (timeout or 0.0)
        while self.consumer.flow_active and (left_s := until_s - monotonic()) > 0:
            if consumer._closed:
                raise ConsumerStoppedError
            try:
                found = await consumer.poll(self._open, left_s, max_records)
            except OffsetOutOfRangeError as error:
                self._gone(error)
                continue
            batches = {tp: Batch(each.messages, each.last_stable) for tp, each in found.items()}
            for tp in [tp for tp in batches if self.consumer.is_steered(tp)]:
                if not self.consumer.steering.take(TP(*tp), batches.pop(tp)):
                    self._open.discard(tp)
            if batches:
                return batches
        return {}

    def _gone(self, error: OffsetOutOfRangeError) -> None:
        """Tell the app which positions retention removed; of Faust's own topics it is an error."""
        for tp, offset in error.args[0].items():
            if not self.consumer.is_steered(tp):
                raise error
            self._open.discard(tp)
            self.consumer.steering.gone(TP(*tp), offset)

    def do(self, work: Callable[..., None], *arguments: object) -> None:
        """Let something happen in this thread, between two polls; any thread may call."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self.thread_loop.call_soon_threadsafe(work, *arguments)

    def start_at(self, positions: Mapping[TP, int]) -> None:
        """Read partitions from these offsets on (in this thread)."""
        consumer = self._ensure_consumer()
        for tp, offset in positions.items():
            try:
                consumer.seek(_plain(tp), offset)
                consumer.resume(_plain(tp))
            except IllegalStateError:  # taken away in between
                continue
            self.consumer.steering.reads_from(tp, offset)
            self._open.add(tp)
        self._opened_s = monotonic()
        consumer.wake()

    def close_partitions(self, partitions: Iterable[TP]) -> None:
        """Give nothing out of these (in this thread)."""
        self._open.difference_update(partitions)

    def open_partitions(self, partitions: Iterable[TP]) -> None:
        """Let partitions go on (in this thread)."""
        self._open.update(tp for tp in partitions if tp in self.assignment())
        self._opened_s = monotonic()
        self._ensure_consumer().wake()

    def silent_s(self) -> float:
        """Return for how long no broker answered, though something is to be read."""
        fetcher = self._ensure_consumer()._fetcher
        if not self._open or any(place in fetcher._records for place in list(self._open)):
            return 0.0
        return monotonic() - max(fetcher.answered_s, self._opened_s)

    def is_at_end(self, tp: TP) -> bool:
        """Whether nothing committed was left when the broker was last asked."""
        consumer = self._ensure_consumer()
        subscription = consumer._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        if assignment is None or tp not in assignment.tps or tp in consumer._fetcher._records:
            return False
        state = assignment.state_value(tp)
        return bool(state.has_valid_position and state.lso is not None and state.position >= state.lso)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Let partitions that are not steered begin at the group's offsets, or where the app's settings say."""
        return await self.call_thread(self._seek_to_committed)

    async def _seek_to_committed(self) -> dict[TP, int]:
        consumer = self._ensure_consumer()
        free = [tp for tp in consumer.assignment() if not self.consumer.is_steered(tp)]
        found = await consumer.seek_to_committed(*free) if free else {}
        new = [tp for tp in free if found.get(tp) is None]
        if new and self.app.conf.consumer_auto_offset_reset == "latest":
            await consumer.seek_to_end(*new)
        elif new:
            await consumer.seek_to_beginning(*new)
        return found

    async def note(self, offsets: Mapping[TP, int]) -> bool:
        """Commit offsets of the group, for tools that show lag; False if that is not possible now."""
        return await self.call_thread(self._note, dict(offsets))

    async def _note(self, offsets: Mapping[TP, int]) -> bool:
        consumer = self._ensure_consumer()
        mine = {_plain(tp): OffsetAndMetadata(at, "") for tp, at in offsets.items() if tp in consumer.assignment()}
        if not mine:
            return True
        is_new = self._noting is None
        if self._noting is None:
            self._noting = asyncio.ensure_future(self._commit_noted(consumer, mine))
        # while brokers are away it waits for ever, and aiokafka complains if it is cancelled
        done, _ = await asyncio.wait([self._noting], timeout=NOTE_S_MAX)
        if not done:
            return False
        is_noted, self._noting = self._noting.result(), None
        return is_noted and is_new

    async def _commit_noted(
        self, consumer: ColumnConsumer, offsets: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> bool:
        try:
            await consumer.commit(offsets)
        except (KafkaError, IllegalStateError):
            return False
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: what Faust takes for slow is a partition that is held back."""


class Consumer(driver.Consumer):
    """Brings batches to the topics' streams."""

    _thread: ConsumerThread
    _steering: Steering | None = None

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def steering(self) -> Steering:
        """The app, as who steers; asked once, for every batch comes by here."""
        if self._steering is None:
            assert isinstance(self.app, Steering)
            self._steering = self.app
        return self._steering

    def is_steered(self, tp: TP) -> bool:
        """Whether its position is told by `start_at`."""
        return tp.topic in getattr(self.app, "steered", ())

    def start_at(self, positions: Mapping[TP, int]) -> None:
        """Read steered partitions from these offsets on; any thread may call, as of the next two."""
        self._thread.do(self._thread.start_at, dict(positions))

    def close_partitions(self, partitions: Iterable[TP]) -> None:
        """Hold partitions back; what was fetched is kept for later."""
        self._thread.do(self._thread.close_partitions, set(partitions))

    def open_partitions(self, partitions: Iterable[TP]) -> None:
        """Let partitions go on where they were held."""
        self._thread.do(self._thread.open_partitions, set(partitions))

    def silent_s(self) -> float:
        """Return for how long no broker answered, though something is to be read."""
        return self._thread.silent_s()

    def is_at_end(self, tp: TP) -> bool:
        """Whether everything committed was fetched when the broker was last asked, and given on by polls."""
        return self._thread.is_at_end(tp)

    async def note(self, offsets: Mapping[TP, int]) -> bool:
        """Commit offsets of the group, for tools that show lag; False if that is not possible now."""
        return await self._thread.note(offsets)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Let Faust resume what is not steered."""
        super().resume_partitions(tps)
        self.open_partitions([tp for tp in tps if not self.is_steered(tp)])

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Hold partitions back for Faust."""
        tps = set(tps)
        super().pause_partitions(tps)
        self.close_partitions(tps)

    def on_buffer_full(self, tp: TP) -> None:
        """Hold a partition back whose stream is full."""
        super().on_buffer_full(tp)
        self.close_partitions([tp])

    def on_buffer_drop(self, tp: TP) -> None:
        """Let it go on."""
        if tp in self._buffered_partitions:
            super().on_buffer_drop(tp)
            self.open_partitions([tp])

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Yield one message per partition that has something; empty after the timeout."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # as in Faust
        if self.should_stop:
            return
        generation = self.app.consumer_generation_id
        batches = await self._getmany(None, timeout)
        for tp, batch in batches.items():
            if not self.flow_active or generation != self.app.consumer_generation_id:
                return  # a rebalance: who gets the partitions reads them again, from the group's offsets
            yield TP(*tp), self._to_message(TP(*tp), batch)

    def _to_message(self, tp: TP, record: Batch) -> ConsumerMessage:
        times_ms = record.messages.times_ms
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            record.messages.end - 1,
            times_ms[-1] / 1000 if times_ms.size else 0.0,
            0,
            headers=None,
            key=None,
            value=record,  # Faust passes it on as it is
            checksum=None,
            generation_id=self.app.consumer_generation_id,
            tp=tp,
        )

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: what Faust takes for slow is a partition that is held back."""


class Transport(driver.Transport):
    """Faust's aiokafka transport, in batches; producing is Faust's own, its compression a setting of the app."""

    Consumer = Consumer
    driver_version = f"pelton, aiokafka={aiokafka.__version__}"


def _plain(tp: TP | TopicPartition) -> TopicPartition:
    return TopicPartition(tp.topic, tp.partition)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


drivers.TRANSPORTS.aliases[SCHEME] = f"{__name__}:Transport"
