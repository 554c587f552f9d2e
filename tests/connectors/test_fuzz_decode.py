"""Broken records of every kind, between good ones: nothing crashes, nothing is lost, and the good are unharmed."""

import json
import math
import random
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from connectors.decode import RECORD_BYTES_MAX, decode
from connectors.records import Records
from connectors.schema import Field, Schema, parse_field

SCHEMA = Schema(
    fields=(
        parse_field("event_id", "string"),
        parse_field("card", "card"),
        parse_field("amount", "money"),
        parse_field("clicks", "int?"),
        parse_field("known", "bool?"),
        parse_field("place", "string?"),
        parse_field("ts", "int"),
    ),
    id="event_id",
    time="ts",
)
ISO = Schema(SCHEMA.fields, SCHEMA.id, SCHEMA.time, time_unit="iso")
BROKEN = 100_000


def records_of(lines: list[bytes]) -> Records:
    return Records("payments", 0, pa.array(lines, pa.large_binary()), np.arange(len(lines), dtype=np.int64))


def slow_decode(schema: Schema, record: bytes) -> tuple | None:
    """Read one record by the letter of the contract, with Python's own parser; None if it is invalid."""
    body = record.strip(b" \t\r\n")
    if len(body) > RECORD_BYTES_MAX or b"\n" in body:
        return None
    try:
        pairs = json.loads(body.decode(), object_pairs_hook=_Pairs, parse_constant=_refuse, parse_int=_integer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, _Pairs) or any(_depth(value) > 64 for _, value in pairs) or not _is_unicode(pairs):
        return None
    keys = [key for key, _ in pairs if key in schema.names]
    if len(keys) != len(set(keys)):
        return None
    given = dict(pairs)
    row = tuple(_value(schema, field, given.get(field.name)) for field in schema.fields)
    return None if "invalid" in [value for value in row if isinstance(value, _Invalid)] else row


class _Pairs(list):
    """The keys and values of an object, doubled ones too."""


class _Invalid(str):
    """Stands for a value that does not fit."""


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _integer(text: str) -> int:
    return int(text[:300]) if len(text) > 300 else int(text)  # as large to us, and quick


def _depth(value: object) -> int:
    if isinstance(value, _Pairs):
        return 1 + max((_depth(each) for _, each in value), default=0)
    return 1 + max((_depth(each) for each in value), default=0) if isinstance(value, list) else 0


def _is_unicode(value: object) -> bool:
    if isinstance(value, str):
        return not any("\ud800" <= char <= "\udfff" for char in value)
    return all(map(_is_unicode, value)) if isinstance(value, list | tuple) else True


def _value(schema: Schema, field: Field, value: object) -> object:
    needed = not field.optional or field.name in (schema.id, schema.time)
    if value is None:
        return _Invalid("invalid") if needed else None
    if field.name == schema.time:
        return _time(schema, value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        "string": isinstance(value, str) and not (field.name == schema.id and value == ""),
        "bool": isinstance(value, bool),
        "int": isinstance(value, int) and is_number and abs(value) <= field.limit,
    }.get(field.type, is_number and math.isfinite(_float(value)) and abs(_float(value)) <= field.limit)
    if not fits:
        return _Invalid("invalid")
    return _float(value) + 0.0 if field.type in ("money", "number") else value


def _float(value: object) -> float:
    try:
        return float(value)
    except (OverflowError, TypeError):
        return math.inf


def _time(schema: Schema, value: object) -> object:
    if schema.time_unit == "iso":
        if not isinstance(value, str):
            return _Invalid("invalid")
        time = datetime.fromisoformat(value)
        value = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 253_402_300_799_999:
        return _Invalid("invalid")
    return math.floor(value)


def good_record(rng: random.Random, number: int) -> dict:
    place = rng.choice(["Köln", "東京", 'a"b\\c\n', "", "😀", "x" * rng.randrange(40), "\u0000", "tab\t/"])
    amounts = [
        round(rng.lognormvariate(3, 1), 2),
        rng.random() * 1e6,
        rng.randrange(10**9),
        -0.0,
        1e-320,
        5e-7,
        123456789.12345679,
    ]
    record = {
        "event_id": f"e{number}",
        "card": str(rng.randrange(10**16)),
        "amount": rng.choice(amounts),
        "clicks": rng.choice([None, 0, -7, 2**46]),
        "known": rng.choice([None, True, False]),
        "place": place,
        "ts": 1_522_540_800_000 + number,
        "other": rng.choice([None, 1.5e300, {"a": [1, {"b": "]}"}], "c": []}, [], "text", {}, True]),
    }
    for name in ("clicks", "known", "place", "other"):
        if rng.random() < 0.2:
            del record[name]
    items = list(record.items())
    if rng.random() < 0.3:
        rng.shuffle(items)
    return dict(items)


def write(rng: random.Random, record: dict) -> bytes:
    separators = rng.choice([(",", ":"), (", ", ": "), (" ,\t", " :\r ")])
    text = json.dumps(record, ensure_ascii=rng.random() < 0.5, separators=separators).encode()
    if rng.random() < 0.05:
        text = text.replace(b'"card"', b'"c\\u0061rd"')
    return text + rng.choice([b"\n", b"\n", b"\r\n", b"", b" \n"])


def break_bytes(rng: random.Random, record: dict) -> bytes:
    text = write(rng, record)
    at, byte = rng.randrange(len(text)), bytes([rng.randrange(256)])
    sign = rng.choice([b'"', b":", b",", b"{", b"}"])
    ways = [
        text[:at] + b"\n",
        text[:at] + byte + text[at + 1 :],
        text[:at] + byte + text[at:],
        text[:at] + text[at + rng.randrange(1, 5) :],
        text[:at] + b"\n" + text[at:],
        text.replace(sign, rng.choice([b"'", b"", b";", b'"', b"{"]), 1),
        rng.randbytes(rng.randrange(80)),
    ]
    return rng.choice(ways)


def break_frame(rng: random.Random, record: dict) -> bytes:
    text, sign = write(rng, record), rng.choice([b" ", b"", b","])
    doubled = rng.choice([b"card", b"amount", b"other", b"c\\u0061rd"])
    nothing = [b"", b"\n", b" \r\n", b"[]\n", b"null\n", b"12\n", b'"x"\n', b"{}\n", b"{", b"\xef\xbb\xbf{}\n"]
    depth, (left, right) = rng.choice([1, 63, 64, 65, 200]), rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    nested = left * depth + b"1" + right * rng.choice([depth, depth - 1])
    ways = [
        text.strip() + sign + text,
        rng.choice(nothing),
        text.strip()[:-1] + b',"' + doubled + b'":"1"}\n',
        b'{"x":' + nested + b"," + text.lstrip()[1:],
    ]
    return rng.choice(ways)


def break_value(rng: random.Random, record: dict) -> bytes:
    name = rng.choice(["event_id", "card", "amount", "clicks", "known", "place", "ts"])
    values = [[], {}, True, 1, 1.5, "x", "", None, "NaN", [[1]], {"a": 1}, 2**46 + 1, 10**400]
    if rng.random() < 0.2:
        return json.dumps({key: value for key, value in record.items() if key != name}).encode()
    return json.dumps({**record, name: rng.choice(values)}).encode() + b"\n"


def break_number(rng: random.Random, record: dict) -> bytes:
    numbers = ["1e999", "-1e999", "9" * 400, "0." + "1" * 400, "1e-400", "1E+2", "-0", "01", "+1", ".5", "5.", "0x1",
               "1e", "-", "NaN", "Infinity", "-Infinity", "1_0", "1e99999999999999999999",
               "9223372036854775808"]  # fmt: skip
    name = rng.choice(["amount", "clicks", "ts", "other", "known", "card"])
    text = json.dumps({key: value for key, value in record.items() if key != name})
    return f'{text[:-1]}, "{name}": {rng.choice(numbers)}}}\n'.encode()


def break_text(rng: random.Random, record: dict) -> bytes:
    texts = [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xc3\xa9", b"\x80",
             b"\xf0\x9f\x98\x80",
             b"\\ud83d", b"\\ude00", b"\\ud83d\\ude00", b"\\u12", b"\\x41", b"\\", b"\\u00e9", b"\\ud83dx", b"\\U0041",
             b"\x01"]  # fmt: skip
    name = rng.choice(["place", "other"])
    return json.dumps({**record, name: "@@"}).encode().replace(b"@@", rng.choice(texts)) + b"\n"


def broken_record(rng: random.Random, record: dict) -> bytes:
    """Break a record in one of many ways; some of them happen to leave it whole."""
    return rng.choice([break_bytes, break_frame, break_value, break_number, break_text])(rng, record)


def check(schema: Schema, lines: list[bytes]) -> int:
    decoded = decode(schema, records_of(lines))
    expected = [slow_decode(schema, line) for line in lines]
    bad = {each.index: each.cause for each in decoded.bad}
    for i, row in enumerate(expected):
        assert (row is None) == (i in bad), (lines[i][:300], row, bad.get(i))
    assert decoded.index.tolist() == [i for i, row in enumerate(expected) if row is not None]
    assert all(cause and "\n" not in cause and len(cause) < 200 for cause in bad.values())
    decoded.rows.validate(full=True)
    rows = zip(*(column.to_pylist() for column in decoded.rows.columns), strict=True)
    good = [row for row in expected if row is not None]
    for found, row in zip(rows, good, strict=True):
        assert found == row
    return len(bad)


def test_one_hundred_thousand_broken_records_between_good_ones():
    rng = random.Random(7)
    bad = 0
    for start in range(0, BROKEN, 5_000):
        lines = []
        for number in range(start, start + 5_000):
            if rng.random() < 0.3:
                lines.append(write(rng, good_record(rng, number)))
            lines.append(broken_record(rng, good_record(rng, number)))
        bad += check(SCHEMA, lines)
    assert bad > BROKEN // 2


def test_the_verdict_on_a_record_does_not_depend_on_its_batch():
    rng = random.Random(11)
    lines = [rng.choice([write, broken_record])(rng, good_record(rng, number)) for number in range(400)]
    together = decode(SCHEMA, records_of(lines))
    alone = [decode(SCHEMA, records_of([line])) for line in lines]
    assert [i for i, each in enumerate(alone) if each.bad] == [each.index for each in together.bad]
    assert [each.bad[0].cause for each in alone if each.bad] == [each.cause for each in together.bad]
    table = pa.Table.from_batches([each.rows for each in alone])
    assert table.to_pylist() == together.rows.to_pylist()


@pytest.mark.parametrize(
    "monster",
    [
        b'{"event_id":"' + b"x" * 10_000_000 + b'"}\n',
        b"[" * 100_000,
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        b'{"a":' * 100_000,
        b'{"amount":' + b"1" * 900_000 + b"}\n",
        b"\x00" * 100_000,
        b'{"' + b"\\u0061" * 100_000 + b'":1}',
    ],
    ids=["10 MB string", "open brackets", "nested arrays", "nested objects", "long number", "zeros", "long key"],
)
def test_a_monster_harms_nobody(monster):
    rng = random.Random(3)
    good = [write(rng, good_record(rng, number)) for number in range(20)]
    assert check(SCHEMA, [*good[:10], monster, *good[10:]]) == 1


def test_times_written_as_text():
    rng = random.Random(5)
    lines = []
    for number in range(2_000):
        record = good_record(rng, number)
        time = datetime.fromtimestamp(rng.randrange(4 * 10**9), UTC)
        text = time.isoformat(sep=rng.choice("T "), timespec=rng.choice(["minutes", "seconds", "milliseconds"]))
        record["ts"] = rng.choice(
            [text, text.removesuffix("+00:00"), text.replace("+00:00", "Z"), text[:-6] + "-05:30"]
        )
        lines.append(write(rng, record))
    assert check(ISO, lines) == 0
