"""A transport for Faust that takes whole polls: one message per partition and poll, its value all their records.

`faust.App(..., broker="pelton://HOST:PORT")`, after this module was imported. Differences to Faust's own transport:

- The value of a message is a `Batch` of columns, values and keys, headers and times; its offset the last one.
- Readers see committed records only.
- Topics named in the app's attribute `steered` are read from where `start_at` says, and not before. All others begin
  at the group's offsets, as with Faust; declare steered ones with `acks=False`, so that it commits nothing for them.
- `close_partitions` and `open_partitions` hold a partition back and let it go on; what was fetched is not lost.
- A position that retention removed is an error, never a silent jump.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Batch:
    """What one poll found in one partition.

    Attributes:
        messages: committed ones in order; none, where only markers of transactions were passed over.
        last_stable: the partition's end for readers of committed messages, as far as is known.
        seek: of the position they were read from on: see `Consumer.is_current`.
    """

    messages: Messages
    last_stable: int
    seek: int = 0

    def __len__(self) -> int:
        return len(self.messages)


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Runs the client in a thread of its own, so that nothing of the app's delays a heartbeat."""

    consumer: Consumer

    def __post_init__(self) -> None:
        super().__post_init__()
        self._seeks: defaultdict[TopicPartition, int] = defaultdict(int)

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
        await super().on_partitions_assigned(assigned, generation_id)

    async def _fetch_records(  # type: ignore[override]  # whole batches instead of lists
        self, consumer: Any, active_partitions: Any, timeout: float | None = None, max_records: int | None = None
    ) -> dict[TopicPartition, Batch]:
        if not self.consumer.flow_active:
            return {}
        if consumer._closed:
            raise ConsumerStoppedError
        found = await consumer.poll(active_partitions, timeout or 0.0, max_records)
        return {tp: Batch(each.messages, each.last_stable, self._seeks[tp]) for tp, each in found.items()}

    def start_at(self, positions: Mapping[TP, tuple[int, int]]) -> None:
        """Read each partition from an offset on; the number beside it names this seek. Any thread may call."""
        self.thread_loop.call_soon_threadsafe(self._start_at, dict(positions))

    def _start_at(self, positions: Mapping[TP, tuple[int, int]]) -> None:
        consumer = self._ensure_consumer()
        for tp, (offset, seek) in positions.items():
            try:
                consumer.seek(_plain(tp), offset)
                consumer.resume(_plain(tp))
            except IllegalStateError:  # taken away in between
                continue
            self._seeks[_plain(tp)] = seek
        consumer.wake()

    def wake(self) -> None:
        """Let a poll that waits look again; any thread may call."""
        self.thread_loop.call_soon_threadsafe(self._ensure_consumer().wake)

    def is_at_end(self, tp: TP) -> bool:
        """Whether nothing committed was left when the broker was last asked."""
        consumer = self._ensure_consumer()
        subscription = consumer._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        if assignment is None or tp not in assignment.tps or _plain(tp) in consumer._fetcher._records:
            return False
        state = assignment.state_value(_plain(tp))
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
        try:
            if mine:
                await consumer.commit(mine)
        except (KafkaError, IllegalStateError):
            return False
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: what Faust takes for slow is a partition that is held back."""


class _ReadOffsets(defaultdict[TP, int | None]):
    """Up to where was read: Faust silently drops messages from before; a steered partition may go back."""

    def __init__(self, consumer: Consumer) -> None:
        super().__init__(lambda: None)
        self._consumer = consumer

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        if not self._consumer.is_steered(tp):
            super().__setitem__(tp, offset)


class Consumer(driver.Consumer):
    """Brings batches to the topics' streams."""

    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._steered: frozenset[str] = frozenset(getattr(self.app, "steered", ()))
        self._read_offset = _ReadOffsets(self)
        self._open: set[tuple[str, int]] = set()
        self._seek_of: defaultdict[TP, int] = defaultdict(int)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def is_steered(self, tp: TP) -> bool:
        """Whether its position is told by `start_at`."""
        return tp.topic in self._steered

    def start_at(self, positions: Mapping[TP, int]) -> None:
        """Read steered partitions from these offsets on; what was fetched before is no longer current."""
        told = {}
        for tp, offset in positions.items():
            self._seek_of[tp] += 1
            told[tp] = (offset, self._seek_of[tp])
        self._thread.start_at(told)
        self._open.update(positions)

    def is_current(self, tp: TP, batch: Batch) -> bool:
        """Whether a batch is of the position that the partition was last told, so that nothing lies between."""
        return batch.seek == self._seek_of[tp]

    def close_partitions(self, partitions: Iterable[TP]) -> None:
        """Hold partitions back; a poll that is on its way may still bring a batch."""
        self._open.difference_update(partitions)

    def open_partitions(self, partitions: Iterable[TP]) -> None:
        """Let partitions go on where they were held."""
        self._open.update(partitions)
        self._thread.wake()

    def is_at_end(self, tp: TP) -> bool:
        """Whether everything committed was fetched when the broker was last asked, and given on by polls."""
        return self._thread.is_at_end(tp)

    async def note(self, offsets: Mapping[TP, int]) -> bool:
        """Commit offsets of the group, for tools that show lag; False if that is not possible now."""
        return await self._thread.note(offsets)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stop reading, then let the app know."""
        self._open.difference_update(revoked)
        for tp in revoked:
            self._seek_of[tp] += 1
        await super().on_partitions_revoked(revoked)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Let Faust resume what is not steered."""
        super().resume_partitions(tps)
        self.open_partitions(tp for tp in tps if not self.is_steered(tp))

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Hold partitions back for Faust."""
        tps = set(tps)
        super().pause_partitions(tps)
        self.close_partitions(tps)

    def on_buffer_full(self, tp: TP) -> None:
        """Hold a partition back whose stream is full."""
        super().on_buffer_full(tp)
        self._open.discard(tp)

    def on_buffer_drop(self, tp: TP) -> None:
        """Let it go on."""
        if tp in self._buffered_partitions:
            super().on_buffer_drop(tp)
            self.open_partitions([tp])

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # type: ignore[override]
        """Yield one message per partition that has something; empty after the timeout."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]  # as in Faust
        if self.should_stop:
            return
        generation = self.app.consumer_generation_id
        try:
            # the set itself: it may change while a poll waits
            batches = await self._getmany(self._open, timeout)  # type: ignore[arg-type]
        except OffsetOutOfRangeError as error:
            await self._gone(error)
            return
        for tp, batch in batches.items():
            if not self.flow_active or generation != self.app.consumer_generation_id:
                return  # a rebalance: who gets the partitions reads them again
            yield TP(*tp), self._to_message(TP(*tp), batch)  # type: ignore[arg-type]

    async def _gone(self, error: OffsetOutOfRangeError) -> None:
        """Tell the app which positions retention removed; without one that listens it is an error."""
        gone = {TP(*tp): offset for tp, offset in error.args[0].items()}
        tell = getattr(self.app, "on_offsets_gone", None)
        if tell is None:
            raise error
        self.close_partitions(gone)
        await tell(gone)

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
            value=record,  # type: ignore[arg-type]  # Faust passes it on as it is
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
