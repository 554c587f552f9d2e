"""Rows to messages and back, by schemas that are registered already or made of the stream."""

import json

import numpy as np
import pyarrow as pa
import pytest

from connectors.errors import ConnectorError
from connectors.formats import decoder_of
from connectors.records import Records
from connectors.schema import Schema, parse_field
from connectors.wire_writer import avro_writer, open_writer, protobuf_writer
from tests.connectors.fake_registry import FakeRegistry
from tests.connectors.test_decode_protobuf import ENUM

FIELDS = {"event_id": "string", "card": "card", "amount": "money?", "clicks": "int?", "known": "bool?", "ts": "int"}
ROWS = [
    {"event_id": "e1", "card": "4000", "amount": 12.5, "clicks": -3, "known": True, "ts": 1_000},
    {"event_id": "Köln", "card": "", "amount": None, "clicks": None, "known": None, "ts": 0},
    {"event_id": "e3", "card": "x", "amount": -0.25, "clicks": 1 << 40, "known": False, "ts": 1 << 40},
]


@pytest.fixture
def registry():
    registry = FakeRegistry()
    yield registry
    registry.close()


def schema_of(time_unit: str = "ms") -> Schema:
    return Schema(tuple(parse_field(*each) for each in FIELDS.items()), "event_id", "ts", time_unit)


def read(registry: FakeRegistry, format: str, messages: list[bytes], schema: Schema) -> list[dict]:
    records = Records("p", 0, pa.array(messages, pa.large_binary()), np.arange(len(messages), dtype=np.int64))
    decoded = decoder_of(schema, format, registry.client())(records)
    assert decoded.bad == []
    return decoded.rows.to_pylist()


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_rows_come_back_as_they_were_written(registry, format):
    schema = schema_of()
    for _ in range(2):  # the second writer finds the schema that the first one registered
        write = open_writer(schema, format, registry.client(), "card payments-value")
        assert read(registry, format, [write(row) for row in ROWS], schema) == ROWS
    assert len(registry.schemas) == 1
    with pytest.raises(ConnectorError, match="has schemas of"):
        open_writer(schema, "avro" if format == "protobuf" else "protobuf", registry.client(), "card payments-value")


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_times_as_text(registry, format):
    write = open_writer(schema_of("iso"), format, registry.client(), "1-value")
    messages = [write({**ROWS[0], "ts": "1970-01-01T00:00:01Z", "more": 1})]
    assert read(registry, format, messages, schema_of("iso")) == [ROWS[0]]


def test_enums_are_written_by_name_or_number():
    write = protobuf_writer(ENUM, 1)
    assert write({"card": "CREDIT"}) == write({"card": -5}) == b"\0\0\0\0\1\0\x10\xfb" + b"\xff" * 8 + b"\1"


@pytest.mark.parametrize("kind", ["sint32", "sint64", "int32", "int64", "uint32", "fixed64", "sfixed32"])
@pytest.mark.parametrize("value", [0, 1, 300, (1 << 31) - 1])
def test_every_kind_of_whole_number(registry, kind, value):
    text = f'syntax = "proto3"; message M {{ string event_id = 1; {kind} clicks = 2; string card = 3; int64 ts = 4; }}'
    registry.add({"schema": text, "schemaType": "PROTOBUF"})
    message = protobuf_writer(text, 1)({"event_id": "e", "clicks": value, "card": "", "ts": 7})
    assert read(registry, "protobuf", [message], schema_of())[0]["clicks"] == value


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"clicks": 1.5}, "clicks is 1.5, which int32 cannot hold"),
        ({"clicks": 1 << 31}, "clicks is 2147483648, which int32 cannot hold"),
        ({"card": 5}, "card is 5, which string cannot hold"),
        ({"many": [1]}, "many is .1., which int32 cannot hold"),
    ],
)
def test_what_cannot_be_written_is_said(row, said):
    text = 'syntax = "proto3"; message M { string card = 1; int32 clicks = 2; repeated int32 many = 3; }'
    with pytest.raises(ConnectorError, match=f"a row does not fit schema id 1: {said}"):
        protobuf_writer(text, 1)(row)


def test_a_row_that_avro_cannot_hold_is_said():
    written = {"type": "record", "name": "A", "fields": [{"name": "a", "type": "long"}]}
    with pytest.raises(ConnectorError, match="a row does not fit schema id 1: "):
        avro_writer(json.dumps(written), 1)({"a": "x"})
