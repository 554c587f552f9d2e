"""Avro records to columns: as fastavro writes them, whatever the schema; broken ones alone are bad."""

import json
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.avro_plan import avro_plan
from connectors.decode_wire import WireDecoder
from connectors.schema import Schema
from connectors.schema_registry import RegisteredSchema
from connectors.wire_plan import WireSchemaError
from tests.connectors.avro_messages import (
    FIELDS,
    GOOD,
    TYPES,
    Schemas,
    avro,
    body,
    decode,
    message,
    records_of,
    schema_of,
)


def row_of(written: dict, record: dict, schema: Schema | None = None) -> dict:
    decoded = decode(Schemas(written), message(written, record), schema=schema)
    assert decoded.bad == []
    return decoded.rows.to_pylist()[0]


def cause_of(written: dict, record: dict, schema: Schema | None = None) -> str:
    good, sound = avro(TYPES), message(avro(TYPES), GOOD, 2)
    decoded = decode(Schemas(written, good), sound, message(written, record), sound, schema=schema)
    assert [each.index for each in decoded.bad] == [1]
    assert schema is not None or decoded.index.tolist() == [0, 2]
    return decoded.bad[0].cause


def test_columns_come_in_declared_order_with_declared_types():
    written = avro({**{name: TYPES[name] for name in reversed(TYPES)}, "more": "string"})
    first, second = {**GOOD, "more": "x"}, {**GOOD, "event_id": "e2", "clicks": None, "more": ""}
    decoded = decode(Schemas(written), message(written, first), message(written, second))
    assert decoded.rows.schema == schema_of().arrow
    assert decoded.rows.to_pylist() == [GOOD, {**GOOD, "event_id": "e2", "clicks": None}]
    assert decoded.index.tolist() == [0, 1]


def test_no_records_give_no_rows():
    decoded = decode(Schemas())
    assert (len(decoded.rows), decoded.index.size, decoded.bad) == (0, 0, [])


def test_schemas_may_mix_and_rows_keep_their_order():
    old, new = avro({name: kind for name, kind in TYPES.items() if name != "clicks"}), avro(TYPES)
    messages = [message(new if i % 3 else old, {**GOOD, "event_id": f"e{i}"}, 2 if i % 3 else 1) for i in range(20)]
    messages[7] = b"\0\0\0\0\2"
    decoded = decode(Schemas(old, new), *messages)
    expected = [i for i in range(20) if i != 7]
    assert decoded.index.tolist() == expected
    assert decoded.rows["event_id"].to_pylist() == [f"e{i}" for i in expected]
    assert decoded.rows["clicks"].to_pylist() == [3 if i % 3 else None for i in expected]
    assert [(each.index, each.cause) for each in decoded.bad] == [
        (7, "the record is broken: it ends too early, inside the value at byte 5 (schema id 2)")
    ]


def test_json_from_before_the_change_is_still_read():
    written = avro(TYPES)
    messages = [message(written, {**GOOD, "event_id": "e0"}), json.dumps(GOOD).encode() + b"\n", b"{"]
    decoded = decode(Schemas(written), *messages, message(written, {**GOOD, "event_id": "e3"}))
    assert decoded.rows["event_id"].to_pylist() == ["e0", "e1", "e3"]
    assert [(each.index, each.cause) for each in decoded.bad] == [
        (2, "the record is broken: it ends too early, at byte 1")
    ]


def test_a_field_renamed_with_an_alias_is_found():
    fields = [{"name": name if name != "amount" else "total", "type": kind} for name, kind in TYPES.items()]
    fields[2]["aliases"] = ["amount"]
    written = {"type": "record", "name": "Payment", "fields": fields}
    record = {**GOOD, "total": 12.5}
    assert row_of(written, record) == GOOD


@pytest.mark.parametrize(
    ("change", "record", "cause"),
    [
        ({"amount": None}, {}, 'the schema has no field amount; declare it as "money?" if it may be missing'),
        ({"event_id": None}, {}, "the schema has no field event_id, which every record needs"),
        ({"amount": "string"}, {"amount": "12"}, 'amount is written as string, and declared as "money"'),
        ({"card": ["null", "long"]}, {"card": 4000}, 'card is written as null or long, and declared as "card"'),
        ({"ts": "string"}, {"ts": "2018"}, 'ts is written as string, and the time field, whose unit is "ms"'),
        ({"amount": ["double", "string"]}, {"amount": "12"}, 'amount is "12", text; it is declared as "money"'),
        ({"amount": ["null", "double"]}, {"amount": None},
         'amount is missing or null; declare it as "money?" if it may be'),
        ({"amount": "double"}, {"amount": math.nan}, "amount is nan; money takes finite numbers up to 7.03687e+09"),
        ({"amount": "long"}, {"amount": 1 << 60},
         "amount is 1152921504606846976; money takes finite numbers up to 7.03687e+09"),
        ({"event_id": "string"}, {"event_id": ""}, "event_id is empty; every record needs an id of its own"),
        ({"ts": "long"}, {"ts": -1}, 'ts is -1: outside the years 1970 to 9999, read as "ms"'),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_with_the_id_of_its_schema(change, record, cause):
    types = {name: kind for name, kind in {**TYPES, **change}.items() if kind is not None}
    assert cause_of(avro(types), {**GOOD, **record}) == f"{cause} (schema id 1)"


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (b"", "the record is empty"),
        (b'{"a": 1}', "event_id is missing or null"),
        (b"\1\0\0\0\1", "the record does not start as avro from a schema registry does, with a 0 and the schema's id"),
        (b"\0\0\0", "the record ends before the id of its schema, or right behind it"),
        (b"\0\0\0\0\7rest", "schema id 7 is not in the schema registry"),
        (b"\0" * 300, "the record is longer than 200 bytes"),
    ],
)  # fmt: skip
def test_a_head_that_names_no_schema_is_said(value, cause):
    sound = message(avro(TYPES), GOOD)
    decoded = WireDecoder(schema_of(), "avro", Schemas(avro(TYPES)), 200)(records_of(sound, value, sound))
    assert decoded.index.tolist() == [0, 2]
    assert [each.cause for each in decoded.bad] == [cause]


@pytest.mark.parametrize(
    ("broken", "cause"),
    [
        (b"\x04a", "it ends too early, inside the value at byte 5"),
        (b"\x03", "the length at byte 5 is negative"),
        (b"\x04\xff\xff", "the text at byte 5 is not valid UTF-8"),
        (b"\xff" * 10, "the number at byte 5 takes more than 64 bits"),
        (b"\x02e\x02c" + bytes(8) + b"\x04", "byte 17 chooses a branch that the union does not have"),
        (b"\x02e\x02c" + bytes(8) + b"\x00\x02\x02", "byte 19 is neither 0 nor 1, where a boolean belongs"),
        (b"\x02e\x02c" + bytes(8) + b"\x00\x00\x02x", "it is done at byte 20, and more follows"),
    ],
)
def test_a_broken_body_is_located(broken, cause):
    sound = message(avro(TYPES), GOOD)
    decoded = decode(Schemas(avro(TYPES)), sound, sound[:5] + broken, sound)
    assert decoded.index.tolist() == [0, 2]
    assert [each.cause for each in decoded.bad] == [f"the record is broken: {cause} (schema id 1)"]


@pytest.mark.parametrize(
    ("kind", "value", "unit", "time_ms"),
    [
        ({"type": "long", "logicalType": "timestamp-millis"}, 1_500, "s", 1_500),
        ({"type": "long", "logicalType": "timestamp-micros"}, 1_500_999, "iso", 1_500),
        ({"type": "long", "logicalType": "local-timestamp-micros"}, 1_500_999, "us", 1_500),
        (["null", {"type": "long", "logicalType": "timestamp-nanos"}], 1_500_999_999, "ms", 1_500),
        ({"type": "int", "logicalType": "date"}, 2, "ms", 2 * 86_400_000),
        ("long", 1_500_999, "us", 1_500),
        ("int", 7, "s", 7_000),
        ("double", 1.001, "s", 1_001),
        ("string", "1970-01-01T00:00:01Z", "iso", 1_000),
    ],
)
def test_times_become_milliseconds(kind, value, unit, time_ms):
    plain = json.loads(json.dumps(kind).replace("logicalType", "was"))  # so that fastavro writes the number as it is
    out = body(avro({**TYPES, "ts": plain}), {**GOOD, "ts": value})
    decoded = decode(Schemas(avro({**TYPES, "ts": kind})), b"\0\0\0\0\1" + out, schema=schema_of(time_unit=unit))
    assert decoded.rows["ts"].to_pylist() == [time_ms]


@given(
    st.integers(0, 30).flatmap(
        lambda scale: st.tuples(
            st.just(scale), st.integers(-(10**38) + 1, 10**38 - 1) | st.integers(-(1 << 65), 1 << 65) | st.just(-3)
        )
    ),
    st.booleans(),
)  # fmt: skip
def test_decimals_are_correctly_rounded(case, is_fixed):
    scale, units = case
    logical = {"logicalType": "decimal", "precision": 40, "scale": scale}
    kind = {"type": "fixed", "name": "Sum", "size": 18, **logical} if is_fixed else {"type": "bytes", **logical}
    value = Decimal(units).scaleb(-scale)
    schema = schema_of({**FIELDS, "amount": "number(0)"})
    if abs(value) <= schema.field("amount").limit:
        assert row_of(avro({**TYPES, "amount": kind}), {**GOOD, "amount": value}, schema)["amount"] == float(value)
    else:
        assert "takes finite numbers" in cause_of(avro({**TYPES, "amount": kind}), {**GOOD, "amount": value}, schema)


def test_enums_and_bytes_are_text():
    kind = {"type": "enum", "name": "Card", "symbols": ["DEBIT", "CREDIT"]}
    written = avro({**TYPES, "event_id": "bytes", "card": ["null", kind, "string"]})
    decoded = decode(
        Schemas(written),
        *(message(written, {**GOOD, "event_id": b"e", "card": card}) for card in ("CREDIT", ("string", "no"), "DEBIT")),
    )
    assert decoded.rows["card"].to_pylist() == ["CREDIT", "no", "DEBIT"]


def test_a_schema_that_refers_to_others():
    text = json.dumps(avro({**TYPES, "card": "bank.Card"}))
    other = '{"type": "enum", "name": "Card", "namespace": "bank", "symbols": ["DEBIT"]}'
    plan = avro_plan(schema_of(), text, (other,))
    assert bytes(plan.names) == b"DEBIT"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "the schema is not JSON, not Avro, or nested too deeply"),
        ("[" * 100_000, "the schema is not JSON, not Avro, or nested too deeply"),
        ('"long"', "the schema is of long, not of a record"),
        ('["null", "long"]', "the schema is of null or long, not of a record"),
        ('{"type": "record", "name": "A"}', "the schema has a record A without fields"),
        ('{"type": "record", "fields": []}', "the schema has a record without a name of its own"),
        ('{"type": "record", "name": "A", "fields": [{"name": "a", "type": "B"}]}',
         "the schema names a type 'B' that nothing defines"),
        ('{"type": "record", "name": "A", "fields": [{"name": "a", "type": 3}]}',
         "the schema has 3 where a type belongs"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_used_is_said(text, cause):
    with pytest.raises(WireSchemaError, match=f"^{cause}"):
        avro_plan(schema_of(), text)


def test_a_schema_of_another_kind_is_said():
    schemas = Schemas(avro(TYPES))
    schemas.known[1] = RegisteredSchema("PROTOBUF", 'syntax = "proto3";')
    decoded = decode(schemas, message(avro(TYPES), GOOD))
    said = 'the schema is of PROTOBUF, not AVRO; declare the stream with format="protobuf" (schema id 1)'
    assert decoded.bad[0].cause == said


def test_a_record_that_holds_itself_is_skipped_but_not_for_ever():
    node = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
    written = avro({"deep": node, **TYPES})

    def nested(depth: int) -> dict:
        return {"next": nested(depth - 1) if depth else None}

    sound = message(written, {**GOOD, "deep": nested(50)})
    deep = message(written, {**GOOD, "deep": nested(80)})
    decoded = decode(Schemas(written), sound, deep)
    assert decoded.index.tolist() == [0]
    assert "nested deeper than 64 levels" in decoded.bad[0].cause


@pytest.mark.parametrize(
    "items",
    [
        "null",
        {"type": "fixed", "name": "N", "size": 0},
        {"type": "record", "name": "E", "fields": [{"name": "e", "type": "E"}]},
    ],
)
def test_a_huge_number_of_items_without_bytes_costs_nothing(items):
    written = avro({**TYPES, "none": {"type": "array", "items": items}})
    huge = message(avro(TYPES), GOOD) + b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00"
    assert decode(Schemas(written), huge).rows.to_pylist() == [GOOD]
