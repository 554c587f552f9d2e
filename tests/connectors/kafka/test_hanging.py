"""A transaction that brokers never end: who takes the partition over says so, and commits nothing after it."""

from concurrent.futures import wait

import pyarrow as pa
import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import AbortTransactionSpec

from connectors.kafka import commits
from connectors.kafka.log import KafkaLog
from connectors.kafka.messages import Outgoing
from connectors.kafka.producing import Producer
from connectors.kafka.settings import KafkaSettings
from connectors.log import LogError
from tests.kafka_broker import KafkaBroker

# Without it, a broker refuses what we do here: to write into a partition that is not part of the transaction, whose
# end therefore is not told to it. Brokers do the same by themselves if a partition has no leader at that moment.
UNCHECKED = "transaction.partition.verification.enable=false\n"
WAIT_S = 1.0  # many times what a claim takes that waits for nothing


@pytest.fixture
def broker(needs_kafka):
    broker = KafkaBroker(settings=UNCHECKED)
    broker.start()
    try:
        yield broker
    finally:
        broker.close()


@pytest.fixture
def admin(broker):
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    yield admin
    admin.close()


def left_open(log):
    """Write a manifest that stays open, and return its offset and who wrote it."""
    values = pa.array([b"lost"], pa.large_binary())
    place = ("app.manifests", 0)

    async def write():
        connection = log._connection
        producer = Producer(connection, "pelton-app-0-0", "test")
        await producer.begin(connection.deadline_s)
        leaders = await connection.leaders([place], connection.deadline_s)
        batches = {place: Outgoing(values, 0, pa.array([b"2"], pa.large_binary())).batches()}
        offsets = await producer._produce(batches, leaders, connection.deadline_s)
        return offsets[place], producer._id, producer._epoch

    return log._connection.call(write(), "leave a transaction open")


def still_open(admin, producer, epoch):
    """Ask about a transaction and return what ends it, as kafka-transactions.sh abort does."""
    place = TopicPartition("app.manifests", 0)
    ((_, state),) = admin.describe_producers([place]).items()
    (epoch_of_coordinator,) = {
        each.coordinator_epoch for each in state.active_producers if each.producer_id == producer
    }
    return AbortTransactionSpec(place, producer, epoch, epoch_of_coordinator)


def commit(log, expected):
    with log.transaction("app", 0, expected) as transaction:
        transaction.append("out", 0, [b"%d" % expected], 0)
        transaction.put_manifest(b"commit %d" % (expected + 1))


def test_nobody_commits_after_a_transaction_that_has_no_end(broker, admin, monkeypatch):
    monkeypatch.setattr(commits, "OPEN_S_MAX", 0.5)
    with KafkaLog(KafkaSettings((broker.address,))) as log:
        log.create_topic("out")
        log.claim("app", 0)
        commit(log, 0)
        offset, producer, epoch = left_open(log)
        for _ in range(2):
            with pytest.raises(
                LogError, match=rf"never ended a transaction .* at offset {offset}, .*abort --topic app"
            ):
                log.claim("app", 0)
        with pytest.raises(LogError, match="never ended"):
            commit(log, 1)
        admin.abort_transaction(still_open(admin, producer, epoch))
        assert log.claim("app", 0) == 1
        commit(log, 1)
        assert [number for number, _ in log.manifests("app", 0, 0)] == [1, 2]


def test_a_transaction_that_is_ended_a_little_later_is_waited_for(broker, admin):
    with KafkaLog(KafkaSettings((broker.address,))) as log:
        log.create_topic("out")
        log.claim("app", 0)
        commit(log, 0)
        _, producer, epoch = left_open(log)
        claiming = log._connection.start(log._owners["app", 0].claim())
        wait([claiming], WAIT_S)
        assert not claiming.done()
        admin.abort_transaction(still_open(admin, producer, epoch))
        assert claiming.result(10) == 1
