"""Random Avro schemas and records, whole and broken: read as fastavro reads them, or bad by themselves alone."""

import contextlib
import io
import json
import random
import struct

import fastavro
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.avro_plan import avro_plan
from connectors.checks import LATEST_MS
from connectors.wire_plan import WireSchemaError
from tests.connectors.avro_messages import FIELDS, GOOD, TYPES, Schemas, avro, decode, message, schema_of

NAMES = st.integers(0, 10**9).map(lambda number: f"T{number}")
SIMPLE = st.sampled_from(["null", "boolean", "int", "long", "float", "double", "bytes", "string"])


def _compound(inner):
    return st.one_of(
        inner.map(lambda each: {"type": "array", "items": each}),
        inner.map(lambda each: {"type": "map", "values": each}),
        st.lists(inner, max_size=3).map(lambda parts: ("record", parts)),
        st.sampled_from(["null", "first", "last"]).flatmap(lambda how: inner.map(lambda each: ("union", how, each))),
    )


ANY = st.recursive(
    SIMPLE | st.just(("enum",)) | st.integers(0, 9).map(lambda size: ("fixed", size)), _compound, max_leaves=6
)


class Made:
    """Turns drawn types into Avro schemas with names of their own, and makes random values of them."""

    def __init__(self, seed: int) -> None:
        self.rng, self.count = random.Random(seed), 0

    def schema(self, drawn: object) -> object:
        self.count += 1
        number = self.count
        if isinstance(drawn, str):
            return drawn
        if isinstance(drawn, dict):
            return {key: self.schema(each) if key != "type" else each for key, each in drawn.items()}
        if drawn[0] == "record":
            fields = [{"name": f"f{i}", "type": self.schema(each)} for i, each in enumerate(drawn[1])]
            return {"type": "record", "name": f"R{number}", "namespace": "x.y", "fields": fields}
        if drawn[0] == "enum":
            return {"type": "enum", "name": f"E{number}", "symbols": ["A", "BB", "CCC"]}
        if drawn[0] == "fixed":
            return {"type": "fixed", "name": f"F{number}", "size": drawn[1]}
        inner = self.schema(drawn[2])
        if inner == "null" or isinstance(inner, list):
            return inner
        return ["null", inner] if drawn[1] != "last" else [inner, "null"]

    def value(self, kind: object) -> object:
        rng = self.rng
        if isinstance(kind, list):
            return self.value(rng.choice(kind))
        name = kind["type"] if isinstance(kind, dict) else kind
        if name == "array":
            return [self.value(kind["items"]) for _ in range(rng.randrange(4))]
        if name == "map":
            return {f"k{i}": self.value(kind["values"]) for i in range(rng.randrange(4))}
        if name == "record":
            return {each["name"]: self.value(each["type"]) for each in kind["fields"]}
        if name == "fixed":
            return rng.randbytes(kind["size"])
        makers = {
            "null": lambda: None,
            "boolean": lambda: rng.random() < 0.5,
            "int": lambda: rng.randrange(-(1 << 31), 1 << 31),
            "long": lambda: rng.choice([rng.randrange(-99, 99), rng.randrange(-(1 << 63), 1 << 63)]),
            "float": lambda: struct.unpack("f", struct.pack("f", rng.random() * 1e3))[0],
            "double": lambda: rng.choice([-0.0, 1e300, rng.random()]),
            "bytes": lambda: rng.choice([b"ok", "é€😀".encode(), b"\xff\xfe", b""]),
            "string": lambda: rng.choice(["", "x" * rng.randrange(30), "Köln 東京 😀"]),
            "enum": lambda: rng.choice(["A", "BB", "CCC"]),
        }  # fmt: skip
        return makers[name]()


FITS = {"string": ("string", "bytes", "enum"), "bool": ("boolean",), "int": ("int", "long"),
        "number(0)": ("int", "long", "float", "double")}  # fmt: skip


def expected_value(declared: str, value: object) -> object:
    """Return what a good record gives, `...` for a bad one."""
    if value is None:
        return None
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return ...
    if declared in ("int", "number(0)"):
        limit = 1 << 46
        return value if -limit <= value <= limit else ...
    return value


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(sorted(FITS)), ANY, ANY), max_size=5), st.integers(0, 1 << 32))
def test_random_schemas_are_read_as_fastavro_wrote_them(drawn, seed):
    made = Made(seed)
    fields, declared = [{"name": "event_id", "type": "string"}], {"event_id": "string"}
    incompatible = False
    for i, (kind, wanted, other) in enumerate(drawn):
        fields += [{"name": f"w{i}", "type": made.schema(wanted)}, {"name": f"o{i}", "type": made.schema(other)}]
        declared[f"w{i}"] = f"{kind}?"
        branches = fields[-2]["type"] if isinstance(fields[-2]["type"], list) else [fields[-2]["type"]]
        incompatible |= not any((each["type"] if isinstance(each, dict) else each) in FITS[kind] for each in branches)
    written = {"type": "record", "name": "Root", "fields": [*fields, {"name": "ts", "type": "long"}]}
    schema = schema_of({**declared, "ts": "int"})
    records = [{**made.value(written), "event_id": f"e{i}", "ts": i} for i in range(20)]
    decoded = decode(Schemas(written), *(message(written, each) for each in records), schema=schema)
    assert len(decoded.rows) + len(decoded.bad) == len(records)
    if incompatible:
        assert not len(decoded.rows)
        assert "is written as" in decoded.bad[0].cause
        return
    rows = dict(zip(decoded.index.tolist(), decoded.rows.to_pylist(), strict=True))
    for i, record in enumerate(records):
        values = {name: expected_value(kind.rstrip("?"), record[name]) for name, kind in declared.items()}
        if ... in values.values():
            assert i not in rows
        else:
            assert rows[i] == {**values, "ts": i}


@settings(max_examples=300)
@given(ANY, st.integers(0, 1 << 32))
def test_broken_records_hurt_nobody(other, seed):
    made = Made(seed)
    written = avro({**TYPES, "other": made.schema(other), "more": ["null", "string", "double"]})
    sound = {**GOOD, **{"other": made.value(written["fields"][-2]["type"]), "more": None}}
    good, rng = message(written, sound), made.rng
    messages = []
    for _ in range(60):
        at, cut = rng.randrange(5, len(good) + 1), rng.randrange(1, 5)
        ways = [
            good[:at],
            good[:at] + rng.randbytes(cut) + good[at:],
            good[:at] + rng.randbytes(cut) + good[at + cut :],
            good[:5] + rng.randbytes(rng.randrange(60)),
            good[:at] + b"\xff" * 7 + b"\x7f" + good[at:],
        ]
        messages += [good, rng.choice(ways)]
    decoded = decode(Schemas(written), *messages)
    assert set(range(0, 120, 2)) <= set(decoded.index.tolist())
    assert sorted([*decoded.index.tolist(), *(each.index for each in decoded.bad)]) == list(range(120))
    if any(word in json.dumps(written) for word in ('"array"', '"map"')):
        return  # fastavro skips blocks item by item, and does not look at the size that a block says it has
    wanted = fastavro.parse_schema(avro(TYPES))
    for row, i in zip(decoded.rows.to_pylist(), decoded.index.tolist(), strict=True):
        read = fastavro.schemaless_reader(io.BytesIO(messages[i][5:]), fastavro.parse_schema(written), wanted)
        assert {name: read[name] for name in FIELDS} == row
        assert 0 <= row["ts"] <= LATEST_MS


@settings(max_examples=300)
@given(st.integers(0, 1 << 32))
def test_broken_schemas_are_refused_in_words(seed):
    rng = random.Random(seed)
    node = {"type": "record", "name": "R", "fields": [{"name": "r", "type": "R"}]}
    enum, fixed = {"type": "enum", "name": "E", "symbols": ["A"]}, {"type": "fixed", "name": "F", "size": 3}
    types = {**TYPES, "e": enum, "f": fixed, "r": {"type": "array", "items": node}}
    text = json.dumps(avro(types, aliases=["B"]))
    sound = b"\0\0\0\0\1" + rng.randbytes(40)
    for _ in range(30):
        at = rng.randrange(len(text))
        bit = rng.choice(['"', "{", "[", "5", "null", '"type"', '"A"', '["x"]', '{"type": 3}', "\\ud800", "1e99"])
        broken = text[:at] + bit + text[at + rng.randrange(12) :]
        word = rng.choice(['"string"', '"double"', '"A"', "3", '["A"]', '"name"', '"E"', '"fields"'])
        for each in (broken, text.replace(word, rng.choice(["3", "null", "[]", "{}", '"E"', '"long"', '["null"]']))):
            with contextlib.suppress(WireSchemaError):
                plan = avro_plan(schema_of(), each)
                data = np.frombuffer(sound, np.uint8)
                plan.scan(data, np.array([5]), np.array([data.size]))
