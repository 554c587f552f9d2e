"""A real schema registry: what its clients write, and how schemas evolve there, is what a stream reads."""

import json

import pytest

from connectors.formats import decoder_of
from connectors.schema_registry import NoSuchSchemaError, RegistryError, RegistrySettings, SchemaRegistry
from tests.connectors import avro_messages as avro
from tests.connectors import test_decode_protobuf as protobuf
from tests.kafka_broker import fresh


@pytest.fixture
def client(registry_url: str) -> SchemaRegistry:
    return SchemaRegistry(RegistrySettings((registry_url,), timeout_s=60))


def test_avro_evolves_without_a_restart(client):
    subject = fresh("payments") + "-value"
    decode = decoder_of(avro.schema_of(), "avro", client)
    old = avro.avro({name: kind for name, kind in avro.TYPES.items() if name != "clicks"})
    first = client.register(subject, json.dumps(old))
    assert decode(avro.records_of(avro.message(old, avro.GOOD, first))).rows["clicks"].to_pylist() == [None]
    new = avro.avro(avro.TYPES)
    new["fields"][3]["default"] = None
    second = client.register(subject, json.dumps(new))
    assert client.register(subject, json.dumps(new)) == second != first
    bad = client.register(fresh("other"), json.dumps(avro.avro({**avro.TYPES, "amount": "string"})))
    both = [avro.message(new, avro.GOOD, second), avro.message(old, avro.GOOD, first), b"\0" + bad.to_bytes(4, "big")]
    decoded = decode(avro.records_of(*both))
    assert decoded.rows["clicks"].to_pylist() == [3, None]
    assert decoded.bad[0].cause == f'amount is written as string, and declared as "money" (schema id {bad})'
    found = client.latest(subject)
    assert (found[0], json.loads(found[1].text)) == (second, new)


def test_protobuf_comes_back_as_a_text_that_can_be_read(client):
    schema_id = client.register(fresh("payments"), protobuf.TEXT, "PROTOBUF")
    decode = decoder_of(avro.schema_of(), "protobuf", client)
    message = protobuf.message(protobuf.PAYMENT, schema_id)
    assert decode(avro.records_of(message)).rows.to_pylist() == [protobuf.GOOD]


def test_what_a_real_registry_does_not_have_or_refuses(client):
    with pytest.raises(NoSuchSchemaError, match="answers 404"):
        client.schema(1_000_000)
    with pytest.raises(NoSuchSchemaError, match="answers 404"):
        client.latest(fresh("nobody"))
    with pytest.raises(RegistryError, match="answers 422"):
        client.register(fresh("payments"), '{"type": "recor"}')
