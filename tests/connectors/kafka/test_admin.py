"""Topics, offsets and lag of a real broker."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from kafka import KafkaProducer

from connectors.kafka.admin import KafkaAdmin, KafkaTopic
from connectors.kafka.errors import BrokerAwayError, KafkaError, NoTopicError
from connectors.kafka.settings import KafkaSettings
from tests.kafka_broker import fresh


@pytest.fixture(scope="module")
def settings(kafka):
    return KafkaSettings.read(kafka, {})


@pytest.fixture(scope="module")
def admin(settings):
    with KafkaAdmin(settings) as admin:
        yield admin


def send(settings, topic, records):
    """Send (partition, timestamp in ms, value)."""
    producer = KafkaProducer(**settings.kafka_python())
    for partition, time_ms, value in records:
        producer.send(topic, value, partition=partition, timestamp_ms=time_ms)
    producer.flush()
    producer.close()


def test_a_topic_is_what_was_asked_for(admin):
    name = fresh("made")
    wanted = KafkaTopic(name, 3, retention_ms=86_400_000, cleanup="delete", append_time=True, copies=1)
    assert admin.create([wanted]) == [name]
    assert admin.describe([name, fresh("missing")]) == {name: wanted}
    assert admin.partitions([name]) == {name: 3}
    assert name in admin.names()
    assert not [name for name in admin.names() if name.startswith("__")]


def test_a_compacted_topic_keeps_records_for_ever(admin):
    wanted = KafkaTopic(fresh("compacted"), cleanup="compact", copies=1)
    admin.create([wanted])
    assert admin.describe([wanted.name])[wanted.name] == wanted


def test_making_a_topic_again_makes_nothing(admin):
    wanted = KafkaTopic(fresh("again"), 2)
    assert admin.create([wanted]) == [wanted.name]
    assert admin.create([wanted]) == []


def test_a_topic_with_more_partitions_than_before_is_refused(admin):
    wanted = KafkaTopic(fresh("grown"), 2)
    admin.create([wanted])
    admin.add_partitions(wanted.name, 4)
    with pytest.raises(KafkaError, match="has 4 partitions, not 2; ask for 4, or use another topic name: keys would"):
        admin.create([wanted])


def test_more_copies_than_brokers_are_refused(admin):
    with pytest.raises(KafkaError, match="ask for at most as many copies as there are brokers"):
        admin.create([KafkaTopic(fresh("copies"), copies=99)])


def test_a_name_that_kafka_does_not_take_is_refused(admin):
    with pytest.raises(KafkaError, match="topic 'a b': in its name use 1 to 249 letters, digits, dots, dashes"):
        admin.create([KafkaTopic("a b")])


def test_offsets_by_time_and_after_deleting_records(admin, settings):
    name = fresh("offsets")
    admin.create([KafkaTopic(name, 2)])
    assert admin.ends([name]) == {(name, 0): 0, (name, 1): 0}
    send(settings, name, [(0, time_ms, b"x") for time_ms in (1000, 2000, 3000)] + [(1, 1000, b"x")])
    assert admin.ends([name]) == {(name, 0): 3, (name, 1): 1}
    assert admin.since([name], 1500) == {(name, 0): 1, (name, 1): 1}
    admin.delete_before({(name, 0): 2})
    assert admin.begins([name]) == {(name, 0): 2, (name, 1): 0}


def test_lag_tells_end_committed_and_who(admin, settings):
    name, group = fresh("lagging"), fresh("readers")
    admin.create([KafkaTopic(name, 2)])
    send(settings, name, [(0, 1000, b"x")] * 5)
    assert [(lag.partition, lag.end, lag.committed, lag.records) for lag in admin.lag(group, [name])] == [
        (0, 5, None, 5), (1, 0, None, 0),
    ]  # fmt: skip
    lags = asyncio.run(lags_beside_a_reader(admin, settings, name, group))
    assert [(lag.committed, lag.records) for lag in lags] == [(3, 2), (None, 0)]
    assert lags[0].member.startswith("reader@")


async def lags_beside_a_reader(admin, settings, name, group):
    """Return the lags while a process reads that committed the third record of partition 0."""
    arguments = {**settings.aiokafka(), "client_id": "reader"}
    async with AIOKafkaConsumer(name, group_id=group, enable_auto_commit=False, **arguments) as consumer:
        while not consumer.assignment():
            await consumer.getmany(timeout_ms=100)
        await consumer.commit({TopicPartition(name, 0): 3})
        return await asyncio.to_thread(admin.lag, group, [name])


def test_a_missing_topic_is_said(admin):
    with pytest.raises(NoTopicError, match=r"there is no topic 'nowhere_at_all' on Kafka at .*; make it: pelton"):
        admin.ends(["nowhere_at_all"])


def test_deleted_topics_are_gone(admin):
    name = fresh("gone")
    admin.create([KafkaTopic(name)])
    admin.delete([name])
    assert admin.describe([name]) == {}


def test_a_broker_that_is_away_is_said_at_once():
    with pytest.raises(BrokerAwayError, match="Kafka at localhost:1 does not answer: nothing listens there; start it"):
        KafkaAdmin(KafkaSettings.read("localhost:1", {}))


def test_a_host_that_does_not_exist_is_said():
    with pytest.raises(BrokerAwayError, match=r"Kafka at nowhere.invalid:9092: no such host; check the name"):
        KafkaAdmin(KafkaSettings.read("nowhere.invalid", {}))
