"""Avro and Protobuf on a real Kafka: every byte comes back, and what was written becomes rows."""

import json

import pytest

from connectors.formats import decoder_of
from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings
from connectors.wire_writer import open_writer
from tests.connectors.avro_messages import GOOD, schema_of
from tests.connectors.fake_registry import FakeRegistry
from tests.kafka_broker import fresh


@pytest.fixture
def registry():
    registry = FakeRegistry()
    yield registry
    registry.close()


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_messages_of_a_topic_become_rows(kafka, registry, format):
    schema, client, topic = schema_of(), registry.client(), fresh("payments")
    write = open_writer(schema, format, client, f"{topic}-value")
    rows = [{**GOOD, "event_id": f"e{i}\n", "clicks": 10 if i % 2 else None} for i in range(50)]
    messages = [json.dumps(row).encode() if row["event_id"] == "e7\n" else write(row) for row in rows]
    messages[3] += b"\n"
    with KafkaLog(KafkaSettings((kafka,))) as log:
        log.create_topic(topic)
        log.append(topic, 0, messages, append_ms=1)
        assert log.wait({(topic, 0): 49}, 10)
        records = log.read(topic, 0, 0, 100)
    assert records.values.to_pylist() == messages
    decoded = decoder_of(schema, format, client, stream="payments")(records)
    assert decoded.rows.to_pylist() == [row for i, row in enumerate(rows) if i != 3]
    assert [each.index for each in decoded.bad] == [3]
