"""Keyed records to a topic: whole, in order, where Kafka's own producers put them."""

import asyncio
import json

import pyarrow as pa
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from kafka.partitioner.default import murmur2

from connectors.kafka.admin import KafkaAdmin, KafkaTopic
from connectors.kafka.errors import KafkaError
from connectors.kafka.sending import Sender
from connectors.kafka.settings import KafkaSettings
from connectors.log import LogError
from tests.kafka_broker import fresh

PARTITIONS = 3


@pytest.fixture
def settings(kafka):
    return KafkaSettings.read(kafka, {})


@pytest.fixture
def topic(settings):
    name = fresh("sent")
    with KafkaAdmin(settings) as admin:
        admin.create([KafkaTopic(name, PARTITIONS)])
    return name


async def received(settings, topic):
    """Return the records of each partition, as another client reads them."""
    places = [TopicPartition(topic, each) for each in range(PARTITIONS)]
    found = {place.partition: [] for place in places}
    async with AIOKafkaConsumer(**settings.aiokafka(), enable_auto_commit=False) as consumer:
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        while any([await consumer.position(place) < ends[place] for place in places]):
            for place, records in (await consumer.getmany(timeout_ms=200)).items():
                found[place.partition] += records
    return found


def test_records_are_whole_in_order_and_where_other_producers_put_their_keys(settings, topic):
    values = [json.dumps({"n": number, "text": "é" * (number % 7)}).encode() for number in range(5000)]
    keys = [f"card-{number % 97}" for number in range(5000)]
    with Sender(settings, topic, PARTITIONS) as sender:
        for first in range(0, 5000, 700):
            part = slice(first, first + 700)
            sender.send(pa.array(values[part], pa.large_binary()), pa.array(keys[part], pa.large_string()), 1234)
    found = asyncio.run(received(settings, topic))
    wanted = {each: [] for each in range(PARTITIONS)}
    for key, value in zip(keys, values, strict=True):
        wanted[(murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS].append((key.encode(), value))
    assert {each: [(record.key, record.value) for record in found[each]] for each in found} == wanted
    assert {record.timestamp for records in found.values() for record in records} == {1234}


def test_records_without_a_key_lose_nothing(settings, topic):
    values = pa.array([b"a", b"b", b"c"], pa.large_binary())
    with Sender(settings, topic, PARTITIONS, "gzip") as sender:
        sender.send(values, pa.array(["k", None, None], pa.large_string()), 1)
        sender.send(values, None, 1)
        sender.send(values[:0], pa.array([], pa.large_string()), 1)
    found = asyncio.run(received(settings, topic))
    assert sorted(record.value for records in found.values() for record in records) == [
        b"a",
        b"a",
        b"b",
        b"b",
        b"c",
        b"c",
    ]
    assert [record.value for record in found[0] if record.key is None][:2] == [b"b", b"c"]


def test_a_message_over_the_size_limit_is_said(settings, topic):
    sender = Sender(settings, topic, PARTITIONS)
    sender.send(pa.array([b"x" * 2_000_000], pa.large_binary()), None, 1)
    with pytest.raises(LogError, match=f"cannot write to topic '{topic}': a message is over the size that the broker"):
        sender.flush()
    sender.__exit__(None, None, None)


def test_a_compression_that_is_not_there_is_said(settings):
    with pytest.raises(KafkaError, match="compression is 'zip'; choose none, gzip, "):
        Sender(settings, "t", 1, "zip")
