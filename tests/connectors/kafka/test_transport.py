"""The transport under a plain Faust app, on a real broker."""

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable

import faust
from aiokafka import AIOKafkaProducer
from faust.types import TP
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from connectors.kafka import transport

WAIT_S = 30.0
_COUNT = itertools.count()


class Reader(faust.App):
    """A member of a group that reads one topic and keeps what came."""

    def __init__(self, group: str, address: str, topic: str, *, steered: bool = True, **settings: object) -> None:
        super().__init__(
            group, broker=f"{transport.SCHEME}://{address}", web_enabled=False, topic_disable_leader=True,
            topic_allow_declare=False, stream_wait_empty=False, broker_commit_interval=0.2, **settings,
        )  # fmt: skip
        self.steered = frozenset({topic} if steered else ())
        self.batches: list[tuple[TP, transport.Batch]] = []
        self.came: dict[int, list[int]] = defaultdict(list)
        self.owned: set[TP] = set()
        self.next: dict[int, int] = {}
        self.began: list[int] = []  # how much had come whenever it was read from somewhere else
        self.holds = False  # each batch closes its partition
        self.told_gone: dict[TP, int] = {}
        self.agent(self.topic(topic, value_serializer="raw", acks=not steered))(self._keep)
        self.on_partitions_assigned.connect(self._assigned)

    def _create_directories(self) -> None:
        """Make none: nothing is kept."""

    async def _keep(self, stream: AsyncIterator) -> None:
        async for event in stream.events():
            self.take(event.message.tp, event.message.value)

    async def _assigned(self, sender: object, assigned: set[TP], **_: object) -> None:
        self.owned = assigned
        if self.steered:
            self.consumer.start_at({tp: (self.came[tp.partition] or [-1])[-1] + 1 for tp in assigned})

    def reads_from(self, tp: TP, offset: int) -> None:
        self.next[tp.partition] = offset
        self.began.append(len(self.came[tp.partition]))

    def take(self, tp: TP, batch: transport.Batch) -> bool:
        if self.steered:
            assert batch.messages.start == self.next[tp.partition]
            self.next[tp.partition] = batch.messages.end
        self.batches.append((tp, batch))
        self.came[tp.partition] += batch.messages.offsets.tolist()
        return not self.holds

    def gone(self, tp: TP, offset: int) -> None:
        self.told_gone[tp] = offset


@contextlib.asynccontextmanager
async def running(*apps: faust.App) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for app in apps:
            await app.start()
            stack.push_async_callback(app.stop)
        yield


@contextlib.asynccontextmanager
async def producing(address: str, **settings: object) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=address, **settings)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 0.01)


def made_topic(address: str, partitions: int) -> str:
    name = f"transport-{next(_COUNT)}"
    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.create_topics([NewTopic(name, partitions, 1)])
    admin.close()
    return name


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())


async def fill(producer: AIOKafkaProducer, topic: str, partition: int, count: int) -> None:
    batch = producer.create_batch()
    for number in range(count):
        if batch.append(key=None, value=b"%d" % number, timestamp=None) is None:
            await producer.send_batch(batch, topic, partition=partition)
            batch = producer.create_batch()
            batch.append(key=None, value=b"%d" % number, timestamp=None)
    await (await producer.send_batch(batch, topic, partition=partition))


def test_a_poll_is_one_message_with_all_that_records_have(kafka):
    topic = made_topic(kafka, 1)
    reader = Reader(topic, kafka, topic)

    async def test() -> None:
        async with producing(kafka, compression_type="gzip", linger_ms=50) as producer, running(reader):
            for number in range(3):
                await producer.send(
                    topic,
                    b"v%d" % number,
                    key=b"k",
                    partition=0,
                    timestamp_ms=1000 + number,
                    headers=[("kind", b"late")],
                )
            await until(lambda: len(reader.came[0]) == 3)

    run(test)
    (tp, batch), *others = reader.batches
    assert (tp, others) == (TP(topic, 0), [])
    messages = batch.messages
    assert (messages.offsets.tolist(), messages.times_ms.tolist()) == ([0, 1, 2], [1000, 1001, 1002])
    assert (messages.keys.to_pylist(), messages.values.to_pylist()) == ([b"k"] * 3, [b"v0", b"v1", b"v2"])
    assert messages.header("kind").to_pylist() == [b"late"] * 3
    assert (messages.start, messages.end, batch.last_stable) == (0, 3, 3)


def test_nothing_is_lost_or_doubled_in_one_assignment(kafka):
    topic = made_topic(kafka, 2)
    reader = Reader(topic, kafka, topic, broker_max_poll_records=700)

    async def test() -> None:
        async with producing(kafka) as producer, running(reader):
            for _ in range(3):
                await asyncio.gather(*(fill(producer, topic, partition, 5000) for partition in (0, 1)))
            await until(lambda: sum(map(len, reader.came.values())) >= 30_000)

    run(test)
    assert reader.came == {0: list(range(15_000)), 1: list(range(15_000))}
    assert max(len(batch) for _, batch in reader.batches) == 700


def test_only_committed_records_come_and_markers_leave_gaps(kafka):
    topic = made_topic(kafka, 1)
    reader = Reader(topic, kafka, topic)

    async def test() -> None:
        async with producing(kafka, transactional_id=topic) as producer, running(reader):
            for keeps in (True, False, True):
                await producer.begin_transaction()
                await producer.send_and_wait(topic, b"x", partition=0)
                await (producer.commit_transaction() if keeps else producer.abort_transaction())
            await until(lambda: len(reader.came[0]) == 2)

    run(test)
    assert reader.came[0] == [0, 4]  # 1: marker, 2: aborted, 3: its marker


def test_a_closed_partition_waits_and_goes_on_where_it_was(kafka):
    topic = made_topic(kafka, 2)
    reader = Reader(topic, kafka, topic)

    async def test() -> None:
        async with producing(kafka) as producer, running(reader):
            await until(lambda: len(reader.owned) == 2)
            reader.consumer.close_partitions([TP(topic, 0)])
            await asyncio.gather(fill(producer, topic, 0, 300), fill(producer, topic, 1, 300))
            await until(lambda: len(reader.came[1]) == 300)
            assert reader.came[0] == []
            reader.consumer.open_partitions([TP(topic, 0)])
            await until(lambda: len(reader.came[0]) == 300)

    run(test)
    assert reader.came == {0: list(range(300)), 1: list(range(300))}


def test_who_takes_a_batch_may_hold_the_partition_back(kafka):
    topic = made_topic(kafka, 1)
    reader = Reader(topic, kafka, topic, broker_max_poll_records=100)
    reader.holds = True

    async def test() -> None:
        async with producing(kafka) as producer, running(reader):
            await fill(producer, topic, 0, 1000)
            for count in range(1, 11):
                await until(lambda count=count: len(reader.came[0]) >= count * 100)
                assert len(reader.came[0]) == count * 100
                reader.consumer.open_partitions([TP(topic, 0)])

    run(test)
    assert reader.came == {0: list(range(1000))}


def test_going_back_brings_everything_again_and_nothing_of_before(kafka):
    topic = made_topic(kafka, 1)
    reader = Reader(topic, kafka, topic, broker_max_poll_records=100)

    async def test() -> None:
        async with producing(kafka) as producer, running(reader):
            await fill(producer, topic, 0, 2000)
            for count in range(1, 6):
                reader.consumer.start_at({TP(topic, 0): 150})
                await until(
                    lambda count=count: len(reader.began) > count and len(reader.came[0]) > reader.began[-1] + 300
                )
            await until(lambda: reader.came[0][-1] == 1999)

    run(test)
    assert reader.came[0][reader.began[-1] :] == list(
        range(150, 2000)
    )  # each batch followed the one before: see `take`


def test_a_position_that_retention_removed_is_told_not_jumped_over(kafka):
    topic = made_topic(kafka, 1)
    reader = Reader(topic, kafka, topic)

    async def test() -> None:
        async with producing(kafka) as producer:
            await fill(producer, topic, 0, 10)
            admin = KafkaAdminClient(bootstrap_servers=kafka)
            from kafka import TopicPartition

            admin.delete_records({TopicPartition(topic, 0): 5})
            admin.close()
            async with running(reader):
                await until(lambda: reader.told_gone)

    run(test)
    assert reader.told_gone == {TP(topic, 0): 0}
    assert reader.came[0] == []


def test_a_second_member_takes_a_half_and_the_first_takes_it_back(kafka):
    topic = made_topic(kafka, 4)
    first, second = Reader(topic, kafka, topic), Reader(topic, kafka, topic)

    async def test() -> None:
        async with producing(kafka) as producer, running(first):
            await asyncio.gather(*(fill(producer, topic, partition, 100) for partition in range(4)))
            await until(lambda: sum(map(len, first.came.values())) == 400)
            async with running(second):
                await until(lambda: len(second.owned) == len(first.owned) == 2)
                assert {tp.partition for tp in first.owned} == {0, 1}
                await asyncio.gather(*(fill(producer, topic, partition, 50) for partition in range(4)))
                await until(lambda: len(second.came[2]) == len(second.came[3]) == 150)
                await until(lambda: len(first.came[0]) == len(first.came[1]) == 150)
            await until(lambda: len(first.owned) == 4)
            await until(lambda: all(len(first.came[partition]) == 150 for partition in range(4)))

    run(test)
    assert first.came == {partition: list(range(150)) for partition in range(4)}
    assert second.came == {2: list(range(150)), 3: list(range(150))}


def test_a_topic_that_is_not_steered_goes_on_where_its_group_was(kafka):
    topic = made_topic(kafka, 1)

    async def test() -> None:
        async with producing(kafka) as producer:
            await fill(producer, topic, 0, 100)
            first = Reader(topic, kafka, topic, steered=False)
            async with running(first):
                await until(lambda: len(first.came[0]) == 100)
            await fill(producer, topic, 0, 20)
            second = Reader(topic, kafka, topic, steered=False)
            async with running(second):
                await until(lambda: len(second.came[0]) == 20)
        assert (first.came[0], second.came[0]) == (list(range(100)), list(range(100, 120)))

    run(test)


def test_noted_offsets_are_the_groups(kafka):
    topic = made_topic(kafka, 1)
    reader = Reader(topic, kafka, topic)

    async def test() -> None:
        async with producing(kafka) as producer, running(reader):
            await fill(producer, topic, 0, 10)
            await until(lambda: len(reader.came[0]) == 10)
            assert await reader.consumer.note({TP(topic, 0): 7, TP("another", 0): 1})

    run(test)
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    committed = admin.list_group_offsets(topic)
    admin.close()
    assert [offset.offset for offsets in committed.values() for offset in offsets.values()] == [7]
