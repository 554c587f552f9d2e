"""Protobuf messages to columns: what a .proto file says, what is missing, what does not fit."""

import struct

import numpy as np
import pyarrow as pa
import pytest

from connectors.decode_wire import WireDecoder
from connectors.protobuf_plan import protobuf_plan
from connectors.protobuf_text import ProtoEnum, ProtoField, parse_proto
from connectors.records import Decoded, Records
from connectors.schema import Schema, parse_field
from connectors.schema_registry import NoSuchSchemaError, RegisteredSchema
from connectors.wire_plan import WireSchemaError

FIELDS = {"event_id": "string", "card": "card", "amount": "money", "clicks": "int?", "known": "bool?", "ts": "int"}
GOOD = {"event_id": "e1", "card": "4000", "amount": 12.5, "clicks": 3, "known": True, "ts": 1_000}
TEXT = """
syntax = "proto3";
message Payment {
  string event_id = 1; string card = 2; double amount = 3;
  optional int64 clicks = 4; optional bool known = 5; int64 ts = 6;
}
"""
PAYMENT = [(1, b"e1"), (2, b"4000"), (3, 12.5), (4, 3), (5, 1), (6, 1000)]


class Schemas:
    """A registry's schemas without the registry."""

    def __init__(self, *texts: str) -> None:
        self.known = {i: RegisteredSchema("PROTOBUF", each) for i, each in enumerate(texts, 1)}

    def schema(self, schema_id: int) -> RegisteredSchema:
        if schema_id not in self.known:
            raise NoSuchSchemaError(f"no schema {schema_id}")
        return self.known[schema_id]


def schema_of(fields: dict[str, str] = FIELDS, time_unit: str = "ms") -> Schema:
    return Schema(tuple(parse_field(*each) for each in fields.items()), "event_id", "ts", time_unit)


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def body(fields: list[tuple[int, object]]) -> bytes:
    out = b""
    for number, value in fields:
        if isinstance(value, float):
            out += varint(number << 3 | 1) + struct.pack("<d", value)
        elif isinstance(value, bytes):
            out += varint(number << 3 | 2) + varint(len(value)) + value
        else:
            out += varint(number << 3) + varint(value)
    return out


def message(fields: list[tuple[int, object]], schema_id: int = 1, path: bytes = b"\0") -> bytes:
    return struct.pack(">bI", 0, schema_id) + path + body(fields)


def decode(schemas: Schemas, *values: bytes, schema: Schema | None = None) -> Decoded:
    records = Records("payments", 0, pa.array(values, pa.large_binary()), np.arange(len(values), dtype=np.int64))
    return WireDecoder(schema or schema_of(), "protobuf", schemas)(records)


def rows_of(text: str, *values: bytes, schema: Schema | None = None) -> list[dict]:
    decoded = decode(Schemas(text), *values, schema=schema)
    assert decoded.bad == []
    return decoded.rows.to_pylist()


def test_columns_come_in_declared_order_with_declared_types():
    decoded = decode(Schemas(TEXT), message(PAYMENT), message([*PAYMENT[:3], PAYMENT[5]]))
    assert decoded.rows.schema == schema_of().arrow
    assert decoded.rows.to_pylist() == [GOOD, {**GOOD, "clicks": None, "known": None}]


def test_a_plain_field_that_is_left_out_is_zero_and_an_optional_one_null():
    [row] = rows_of(TEXT, message([(1, b"e1"), (2, b"4000")]))
    assert row == {**GOOD, "amount": 0.0, "clicks": None, "known": None, "ts": 0}


def test_of_a_field_given_twice_the_last_counts_and_unknown_ones_are_skipped():
    more = [(99, b"x" * 200), (3, 1.5), (98, 7), (97, 2.5)]
    group = varint(50 << 3 | 3) + body([(1, b"\xff"), (2, 3)]) + varint(50 << 3 | 4)
    assert rows_of(TEXT, message([*more, *PAYMENT]) + group) == [GOOD]


def test_a_known_field_in_another_wire_type_is_an_unknown_one():
    assert rows_of(TEXT, message([*PAYMENT, (3, 7), (1, 7)])) == [GOOD]


def test_messages_are_found_by_their_indexes():
    inner = TEXT.replace('syntax = "proto3";', "")
    text = f'syntax = "proto3"; package a.b; message First {{ int32 x = 1; }} message Outer {{ {inner} }}'
    assert rows_of(text, message(PAYMENT, path=varint(4) + varint(2) + varint(0))) == [GOOD]
    assert rows_of(TEXT, message(PAYMENT, path=varint(2) + varint(0))) == [GOOD]
    decoded = decode(
        Schemas(text), message(PAYMENT, path=varint(4) + varint(2) + varint(6)), message(PAYMENT, path=b"\5")
    )
    assert [each.cause for each in decoded.bad] == [
        "the schema has no message with the indexes 1, 3 that the record names (schema id 1)",
        "the indexes of the record's message are not what leads through at most 4 levels",
    ]


def test_a_timestamp_message_is_a_time():
    text = TEXT.replace("int64 ts", "google.protobuf.Timestamp ts")
    stamp = body([(1, 1), (2, 500_999_999)])
    assert rows_of(text, message([*PAYMENT[:5], (6, stamp)]), schema=schema_of(time_unit="iso"))[0]["ts"] == 1_500
    decoded = decode(Schemas(text), message(PAYMENT[:5]), message([*PAYMENT[:5], (6, b"\x08")]))
    assert [each.cause for each in decoded.bad] == [
        "ts is missing or null (schema id 1)",
        "the record is broken: it ends too early, inside the value at byte 29 (schema id 1)",
    ]


ENUM = TEXT.replace("string card", "Kind card") + "enum Kind { NONE = 0; DEBIT = 1; CREDIT = -5; }"


def test_enums_are_their_names_or_their_numbers():
    cards = [(2, 1), (2, -5), (2, 0), None]
    messages = [message([*([card] if card else []), PAYMENT[0], *PAYMENT[2:]]) for card in cards]
    assert [row["card"] for row in rows_of(ENUM, *messages)] == ["DEBIT", "CREDIT", "NONE", "NONE"]
    numbers = schema_of({**FIELDS, "card": "int"})
    assert [row["card"] for row in rows_of(ENUM, *messages, schema=numbers)] == [1, -5, 0, 0]
    decoded = decode(Schemas(ENUM), message([*PAYMENT[:1], (2, 7), *PAYMENT[2:]]))
    assert decoded.bad[0].cause == 'card is a number; it is declared as "card" (schema id 1)'
    closed = 'syntax = "proto2";' + ENUM.split(";", 1)[1].replace("Kind card", "optional Kind card")
    closed = (
        closed.replace("string", "optional string").replace("double", "optional double").replace(" int64", " int64")
    )
    closed = closed.replace("; int64 ts", "; optional int64 ts")
    optional = schema_of({**FIELDS, "card": "string?"})
    rows = rows_of(closed, message([(2, 7), *PAYMENT[:1], *PAYMENT[2:]]), messages[0], schema=optional)
    assert [row["card"] for row in rows] == [None, "DEBIT"]


def test_defaults_of_proto2():
    text = """
    syntax = "proto2";
    message P {
      optional string event_id = 1 [default = "it's\\n"]; optional string card = 2 [default = 'c'];
      optional double amount = 3 [(x).y = "[", default = -1.5, deprecated = true];
      optional int64 clicks = 4 [default = 0x10]; optional bool known = 5 [default = true]; required int64 ts = 6;
    }"""
    assert rows_of(text, message([(6, 5)])) == [
        {"event_id": "it's\n", "card": "c", "amount": -1.5, "clicks": 16, "known": True, "ts": 5}
    ]
    assert decode(Schemas(text), message([])).bad[0].cause == "ts is missing or null (schema id 1)"


def test_in_a_oneof_the_last_one_counts():
    text = TEXT.replace("optional int64 clicks = 4; optional bool known = 5;",
                        "oneof o { int64 clicks = 4; bool known = 5; string other = 7; }")  # fmt: skip
    start = [*PAYMENT[:3], PAYMENT[5]]
    rows = rows_of(text, message([*start, (4, 1), (5, 1)]), message([*start, (5, 0), (4, 0)]),
                   message([*start, (4, 1), (7, b"x")]))  # fmt: skip
    assert [(row["clicks"], row["known"]) for row in rows] == [(None, True), (0, None), (None, None)]


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        (
            "double amount",
            "double total",
            'the schema has no field amount; declare it as "money?" if it may be missing',
        ),
        ("double amount", "string amount", 'amount is written as string, and declared as "money"'),
        ("double amount", "repeated double amount", 'amount is written as repeated double, and declared as "money"'),
        ("double amount", "map<string, double> amount", 'amount is written as map, and declared as "money"'),
        ("double amount", "Payment amount", 'amount is written as Payment, and declared as "money"'),
        ("int64 ts", "int64 when", "the schema has no field ts, which every record needs"),
        ("string event_id = 1;", "string event_id = ;", "the schema is not a .proto file: line 4 cannot be read"),
        ("proto3", "proto9", "the schema's syntax is 'proto9'; proto2, proto3 and editions can be read"),
        ("}", "", "the schema is not a .proto file: line 7 cannot be read"),
        ("syntax", "?", "the schema is not a .proto file: line 2 cannot be read"),
    ],
)
def test_what_does_not_fit_is_said_with_the_id_of_its_schema(old, new, cause):
    decoded = decode(Schemas(TEXT, TEXT.replace(old, new)), message(PAYMENT), message(PAYMENT, 2), message(PAYMENT))
    assert decoded.index.tolist() == [0, 2]
    assert [(each.index, each.cause) for each in decoded.bad] == [(1, f"{cause} (schema id 2)")]


@pytest.mark.parametrize(
    ("broken", "cause"),
    [
        (b"\x0a\x05abc", "it ends too early, inside the value at byte 6"),
        (b"\x0a\x02\xff\xff", "the text at byte 6 is not valid UTF-8"),
        (b"\x30" + b"\xff" * 10, "the number at byte 6 takes more than 64 bits"),
        (b"\x07", "what stands at byte 6 is no tag of a field"),
        (b"\x00", "what stands at byte 6 is no tag of a field"),
        (b"\x0c", "the group at byte 6 is not closed as it was opened"),
        (b"\x4b\x08\x01\x54", "the group at byte 6 is not closed as it was opened"),
        (b"\x4b" * 70, "at byte 6 it is nested deeper than 64 levels"),
        (b"\x19\1\2", "it ends too early, inside the value at byte 6"),
        (b"\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "it ends too early, inside the value at byte 6"),
    ],
)
def test_a_broken_body_is_located(broken, cause):
    decoded = decode(Schemas(TEXT), message(PAYMENT), b"\0\0\0\0\1\0" + broken, message(PAYMENT))
    assert decoded.index.tolist() == [0, 2]
    assert [each.cause for each in decoded.bad] == [f"the record is broken: {cause} (schema id 1)"]


def test_a_proto_file_with_everything_in_it():
    file = parse_proto("""
    // a comment ; }
    edition = "2023"; /* another { */
    package a.b;
    import public "other.proto";
    option java_package = "x"; option features.field_presence = IMPLICIT;
    option (my.own) = { a: 1 b { c: "}" } };
    extend google.protobuf.FieldOptions { string mark = 50000; }
    message M {
      option deprecated = true;
      reserved 2, 4 to 6; reserved "foo", "bar";
      extensions 100 to max [verification = UNVERIFIED];
      message N { enum E { option allow_alias = true; A = 0; B = 0x10 [deprecated = true]; reserved 9; } E e = 1; };
      map < string , N.E > counts = 7;
      N.E kind = 8 [features.field_presence = EXPLICIT]; .a.b.M self = 010;
      oneof one { option (x) = 1; string message = 10; int32 optional = 11; }
      repeated group Old = 12 { string s = 1; }
    }
    service S { rpc Do (M) returns (stream M) { option idempotency_level = IDEMPOTENT; } }
    """)  # fmt: skip
    assert list(file.types) == ["a.b.M", "a.b.M.N", "a.b.M.N.E", "a.b.M.Old"]
    assert file.types["a.b.M.N.E"] == ProtoEnum([(0, "A"), (16, "B")])
    [message_] = file.messages
    assert message_.fields == [
        ProtoField("counts", 7, "map"),
        ProtoField("kind", 8, "N.E", options={"features.field_presence": "EXPLICIT"}),
        ProtoField("self", 8, ".a.b.M"),
        ProtoField("message", 10, "string", oneof=1),
        ProtoField("optional", 11, "int32", oneof=1),
        ProtoField("Old", 12, "group", "repeated"),
    ]
    assert not message_.has_presence


def test_an_imported_enum_is_read_by_name():
    text = 'syntax = "proto3"; import "k.proto";' + TEXT.split(";", 1)[1].replace("string card", "k.Kind card")
    other = 'syntax = "proto3"; package k; enum Kind { NONE = 0; DEBIT = 1; }'
    plan = protobuf_plan(schema_of(), text, (("k.proto", other),))
    assert bytes(plan.names) == b"NONEDEBITNONE"


def test_messages_nested_without_end_are_refused():
    with pytest.raises(WireSchemaError, match="nested deeper than 32 levels"):
        parse_proto("message A {" * 1000)
