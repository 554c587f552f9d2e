"""Random Protobuf schemas and messages, whole and broken: read as Google's parser reads them, or bad alone."""

import contextlib
import math
import random
import struct

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.checks import LATEST_MS
from connectors.protobuf_plan import protobuf_plan
from connectors.wire_plan import WireSchemaError
from tests.connectors.test_decode_protobuf import TEXT, Schemas, decode, schema_of

KINDS = {"string": ("string", "bytes", "E"), "bool": ("bool",),
         "int": ("int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32",
                 "sfixed64"),
         "number(0)": ("double", "float", "int32", "uint64", "sint64", "sfixed32")}  # fmt: skip
SYMBOLS = {0: "NONE", 1: "ONE", 70_000: "MANY", -3: "BELOW"}
LIMIT = 1 << 46

PAIRS = sorted((declared, kind) for declared, kinds in KINDS.items() for kind in kinds)
FIELD = st.tuples(
    st.sampled_from(PAIRS),
    st.sampled_from(["", "optional", "oneof"]),
    st.sampled_from([0, 1, 10, 15, 2_000, 50_000_000]),
)  # fmt: skip


class Made:
    """A message type made of drawn fields: as Google's class, as .proto text, and as declared."""

    def __init__(self, drawn: list, seed: int) -> None:
        self.rng = random.Random(seed)
        self.declared = {"event_id": "string"}
        file = descriptor_pb2.FileDescriptorProto(name="m.proto", package="p", syntax="proto3")
        enum = file.enum_type.add(name="E")
        for number, symbol in SYMBOLS.items():
            enum.value.add(name=symbol, number=number)
        kind = file.message_type.add(name="M")
        lines, oneof, hidden = [], [], []
        fields = [(("string", "string"), "", 0), *drawn, (("int", "int64"), "", 0)]
        for i, ((declared, wire), label, gap) in enumerate(fields):
            name = "event_id" if i == 0 else "ts" if i == len(fields) - 1 else f"f{i}"
            number = i + 1 + gap * 10
            self.declared[name] = declared if name in ("event_id", "ts") else f"{declared}?"
            field = kind.field.add(name=name, number=number, label=1)
            if wire == "E":
                field.type, field.type_name = 14, ".p.E"
            else:
                field.type = descriptor_pb2.FieldDescriptorProto.Type.Value(f"TYPE_{wire.upper()}")
            line = f"{wire} {name} = {number};"
            if label == "oneof":
                field.oneof_index = 0
                oneof.append(line)
            else:
                lines.append(f"{label} {line}")
                if label == "optional":
                    field.proto3_optional = True
                    hidden.append((field, f"_{name}"))
        if oneof:
            kind.oneof_decl.add(name="o")
            lines.append(f"oneof o {{ {' '.join(oneof)} }}")
        for field, name in hidden:
            field.oneof_index = len(kind.oneof_decl)
            kind.oneof_decl.add(name=name)
        values = " ".join(f"{symbol} = {number};" for number, symbol in SYMBOLS.items())
        self.text = f'syntax = "proto3"; package p; message M {{ {" ".join(lines)} }} enum E {{ {values} }}'
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        self.kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("p.M"))
        self.schema = schema_of(self.declared)

    def record(self, number: int) -> object:
        record = self.kind(event_id=f"e{number}", ts=number)
        for field in self.kind.DESCRIPTOR.fields[1:-1]:
            if self.rng.random() < 0.8:
                setattr(record, field.name, self.value(field))
        return record

    def value(self, field: object) -> object:
        rng, wire = self.rng, field.type
        if wire == field.TYPE_ENUM:
            return rng.choice(list(SYMBOLS))
        if wire == field.TYPE_STRING:
            return rng.choice(["", "Köln 東京 😀", "x" * rng.randrange(200)])
        if wire == field.TYPE_BYTES:
            return rng.choice([b"", b"ok", "é".encode(), b"\xff"])
        if wire == field.TYPE_BOOL:
            return rng.random() < 0.5
        if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
            return rng.choice([0.0, -0.0, 1.5, rng.random(), -1e30, math.inf])
        bits = 32 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 64
        signed = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64)
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        return rng.choice([0, 1, low, high, rng.randrange(low, high), min(300, high)])

    def expected(self, record: object) -> dict | None:
        """Return the row of a parsed message, None for one that does not fit."""
        row = {}
        for field in self.kind.DESCRIPTOR.fields:
            value = getattr(record, field.name)
            if field.has_presence and not record.HasField(field.name):
                value = None
            elif field.type == field.TYPE_ENUM:
                value = SYMBOLS.get(value, ...)
            elif isinstance(value, bytes):
                try:
                    value = value.decode()
                except UnicodeDecodeError:
                    return None
            elif not isinstance(value, str | bool) and not -LIMIT <= value <= LIMIT:
                return None
            row[field.name] = value
        if ... in row.values() or row["event_id"] == "" or not 0 <= row["ts"] <= LATEST_MS:
            return None
        return row


@settings(max_examples=200)
@given(st.lists(FIELD, max_size=6, unique_by=lambda each: each[2]), st.integers(0, 1 << 32))
def test_random_messages_are_read_as_they_were_written(drawn, seed):
    made = Made(drawn, seed)
    records = [made.record(i) for i in range(20)]
    decoded = decode(Schemas(made.text), *map(framed, records), schema=made.schema)
    rows = dict(zip(decoded.index.tolist(), decoded.rows.to_pylist(), strict=True))
    assert len(rows) + len(decoded.bad) == len(records)
    for i, record in enumerate(records):
        assert rows.get(i) == made.expected(record)


@settings(max_examples=300)
@given(st.lists(FIELD, max_size=6, unique_by=lambda each: each[2]), st.integers(0, 1 << 32))
def test_broken_messages_are_judged_as_google_judges_them(drawn, seed):
    made = Made(drawn, seed)
    good, rng = made.kind(event_id="e", ts=7).SerializeToString(), made.rng
    bodies = []
    for i in range(60):
        text = made.record(i).SerializeToString()
        at, cut = rng.randrange(len(text) + 1), rng.randrange(1, 5)
        ways = [
            text[:at],
            text[:at] + rng.randbytes(cut) + text[at:],
            text[:at] + rng.randbytes(cut) + text[at + cut :],
            rng.randbytes(rng.randrange(40)),
            text[:at] + b"\xff" * 9 + bytes([rng.randrange(4)]) + text[at:],
            text + made.record(i).SerializeToString(),
            text + tag(rng) + rng.randbytes(cut),
        ]
        bodies += [good, rng.choice(ways)]
    decoded = decode(Schemas(made.text), *(b"\0\0\0\0\1\0" + each for each in bodies), schema=made.schema)
    rows = dict(zip(decoded.index.tolist(), decoded.rows.to_pylist(), strict=True))
    causes = {each.index: each.cause for each in decoded.bad}
    assert sorted([*rows, *causes]) == list(range(len(bodies)))
    for i, each in enumerate(bodies):
        if "not valid UTF-8" in causes.get(i, "") and "bytes" in made.text:
            continue  # bytes that are no text, and then given again: Google looks at the last ones only
        try:
            expected = made.expected(made.kind.FromString(each))
        except DecodeError:
            expected = None
        assert rows.get(i) == expected, each


@settings(max_examples=300)
@given(st.integers(0, 1 << 32))
def test_broken_proto_files_are_refused_in_words(seed):
    rng = random.Random(seed)
    data = np.frombuffer(rng.randbytes(40), np.uint8)
    signs = ["{", "}", ";", "=", "-", '"', "'", "/*", "[", "]", "(", ".", "é", "\\", "99999999999999", "1e9"]
    words = ["message", "oneof x {", "enum E {", "option", "reserved", "repeated", "group", "map<", "default = 9", "E"]
    bits = signs + words
    text = TEXT + "enum E { A = 0; option x = 1; B = -5; } message N { optional E e = 1 [default = B]; }"
    for _ in range(40):
        at = rng.randrange(len(text))
        broken = text[:at] + rng.choice(bits) + text[at + rng.randrange(12) :]
        with contextlib.suppress(WireSchemaError):
            plan = protobuf_plan(schema_of(), broken)
            plan.scan(data, np.array([0]), np.array([data.size]))


def tag(rng: random.Random) -> bytes:
    value = rng.randrange(1, 20) << 3 | rng.randrange(6)
    return bytes([value]) if value < 128 else bytes([value & 127 | 128, value >> 7])


def framed(record: object) -> bytes:
    return struct.pack(">bIb", 0, 1, 0) + record.SerializeToString()
