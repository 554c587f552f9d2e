"""JSON records to columns: what fits, what does not, and what is said about it."""

import json

import numpy as np
import pyarrow as pa
import pytest

from connectors.decode import decode
from connectors.records import Records
from connectors.schema import Schema, parse_field

FIELDS = {"event_id": "string", "card": "card", "amount": "money", "clicks": "int?", "known": "bool?", "ts": "int"}
GOOD = {"event_id": "e1", "card": "4000", "amount": 12.5, "clicks": 3, "known": True, "ts": 1_000}


def schema_of(fields: dict[str, str] = FIELDS, time_unit: str = "ms") -> Schema:
    return Schema(tuple(parse_field(*each) for each in fields.items()), "event_id", "ts", time_unit)


def records_of(*lines: bytes) -> Records:
    return Records("payments", 0, pa.array(lines, pa.large_binary()), np.arange(len(lines), dtype=np.int64))


def line(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode() + b"\n"


def cause_of(record: bytes, schema: Schema | None = None) -> str:
    decoded = decode(schema or schema_of(), records_of(line(), record, line()))
    assert decoded.index.tolist() == [0, 2]
    assert [each.index for each in decoded.bad] == [1]
    return decoded.bad[0].cause


def row_of(record: bytes, schema: Schema | None = None) -> dict:
    decoded = decode(schema or schema_of(), records_of(record))
    assert decoded.bad == []
    return decoded.rows.to_pylist()[0]


def test_columns_come_in_declared_order_with_declared_types():
    decoded = decode(schema_of(), records_of(line(), line(event_id="e2", clicks=None)))
    assert decoded.rows.schema == schema_of().arrow
    assert decoded.rows.to_pylist() == [GOOD, {**GOOD, "event_id": "e2", "clicks": None}]
    assert decoded.index.tolist() == [0, 1]


def test_no_records_give_no_rows():
    decoded = decode(schema_of(), records_of())
    assert (len(decoded.rows), decoded.index.size, decoded.bad) == (0, 0, [])


def test_a_slice_of_records_is_decoded_as_such():
    records = records_of(line(event_id="a"), line(event_id="b"), b"{", line(event_id="c"))
    sliced = Records("payments", 0, records.values[1:], records.offsets[1:])
    decoded = decode(schema_of(), sliced)
    assert decoded.rows["event_id"].to_pylist() == ["b", "c"]
    assert [each.index for each in decoded.bad] == [1]


def test_missing_and_null_are_the_same():
    without = json.dumps({name: value for name, value in GOOD.items() if name != "clicks"}).encode()
    assert row_of(without) == row_of(line(clicks=None))
    missing = json.dumps({name: value for name, value in GOOD.items() if name != "amount"}).encode()
    assert cause_of(missing) == cause_of(line(amount=None))
    assert cause_of(missing) == 'amount is missing or null; declare it as "money?" if it may be'


def test_unknown_keys_are_skipped_but_must_be_json():
    assert row_of(line(more={"deep": [1, {"x": "}"}]})) == GOOD
    assert "NaN or Infinity" in cause_of(line(more=float("nan")))


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        (line(event_id=12), 'event_id is 12, a number; declare it as "int"'),
        (line(event_id=""), "event_id is empty; every record needs an id of its own"),
        (line(event_id=None), "event_id is missing or null"),
        (line(amount="12"), 'amount is "12", text; it is declared as "money"'),
        (line(amount=True), 'amount is true, true or false; it is declared as "money"'),
        (line(amount=[1]), 'amount is [1], an array; it is declared as "money"'),
        (line(amount=1e30), "amount is 1e+30; money takes finite numbers up to 7.03687e+09"),
        (line(clicks=1.5), 'clicks is 1.5, not a whole number; declare it as "number"'),
        (line(known=1), 'known is 1, a number; it is declared as "bool"'),
        (line(ts="2018"), 'ts is "2018", text; numbers are expected, since its unit is "ms"'),
        (line(ts=-1), 'ts is -1: outside the years 1970 to 9999, read as "ms"'),
        (line(ts=253402300800000), 'ts is 253402300800000: outside the years 1970 to 9999, read as "ms"'),
        (line(amount="x" * 100), f'amount is "{"x" * 59}..., text; it is declared as "money"'),
        (b'{"event_id":"a","event_id":"b"}', "event_id is given twice"),
    ],
)
def test_a_cause_names_field_and_value(record, cause):
    assert cause_of(record) == cause


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        (b"", "the record is empty"),
        (b" \r\n", "the record is empty"),
        (b"[1]\n", 'the record is not a JSON object: it does not start with "{"'),
        (line().strip() + line(), "the record is more than one JSON object: something follows at byte 90"),
        (b'{"a":1,\n"b":2}', "the record is broken: a line break at byte 7; write each record on one line"),
        (b'{"a":"x\ny"}', "the record is broken: a line break at byte 7; write each record on one line"),
        (b'{"a":"x\ty"}', "the record is broken: byte 7 is a control character inside text; escape it"),
        (b'{"a":1', "the record is broken: it ends too early, at byte 6"),
        (b'{"a":1,}', "the record is broken: what stands at byte 7 does not belong there"),
        (b'{"a":\xff}', "the record is broken: what stands at byte 5 does not belong there"),
        (b'{"a":"\xff"}', "the record is broken: byte 6 is not valid UTF-8"),
        (b'{"a":"\\ud83d"}', "the record is broken: the backslash at byte 6 escapes nothing that JSON knows"),
        (b'{"a":01}', "the record is broken: the number at byte 5 is not JSON"),
        (b'{"a":-Infinity}', "byte 6 begins NaN or Infinity, which JSON does not have; write null"),
        (b'{"a":' + b"[" * 65, "the record is broken: at byte 69 it is nested deeper than 64 levels"),
    ],
)
def test_a_broken_frame_is_located(record, cause):
    assert cause in cause_of(record)


def test_an_object_split_over_two_records_takes_no_neighbour_with_it():
    # Counting rows would not notice: two records hold one object, and another record holds two.
    halves = [b'{"event_id":"a","x":"}\n', b'{"}\n', line().strip() + line()]
    decoded = decode(schema_of(), records_of(line(), *halves, line()))
    assert decoded.index.tolist() == [0, 4]
    assert [each.index for each in decoded.bad] == [1, 2, 3]


def test_a_sensitive_value_is_never_shown():
    assert cause_of(line(card=4000123412341234)) == 'card is a number; it is declared as "card"'
    assert cause_of(line(card=None)) == 'card is missing or null; declare it as "card?" if it may be'


def test_escaped_keys_and_values_mean_what_they_escape():
    record = line(card='€ \U0001f600 " \\ \n').replace(b'"card"', b'"\\u0063ard"')
    assert row_of(record)["card"] == '€ \U0001f600 " \\ \n'


def test_an_id_may_be_declared_a_whole_number():
    schema = schema_of({**FIELDS, "event_id": "int"})
    decoded = decode(schema, records_of(line(event_id=7), line(event_id="7")))
    assert decoded.rows["event_id"].to_pylist() == [7]
    assert decoded.bad[0].cause == 'event_id is "7", text; it is declared as "int"'


@pytest.mark.parametrize(
    ("unit", "value", "time_ms"),
    [
        ("ms", 1522540831001, 1522540831001),
        ("ms", 1522540831001.9, 1522540831001),
        ("s", 1522540831, 1522540831000),
        ("s", 1522540831.001, 1522540831001),
        ("us", 1522540831001999, 1522540831001),
        ("iso", "2018-04-01 00:00:31", 1522540831000),
        ("iso", "2018-04-01T00:00:31.0019Z", 1522540831001),
        ("iso", "2018-04-01T02:00:31+02:00", 1522540831000),
        ("iso", "2018-03-31T19:00:31 -0500", 1522540831000),
        ("iso", "2018-04-01", 1522540800000),
    ],
)
def test_times_become_milliseconds(unit, value, time_ms):
    assert row_of(line(ts=value), schema_of(time_unit=unit))["ts"] == time_ms


@pytest.mark.parametrize(
    "value",
    ["yesterday", "2018-02-29", "2018-13-01", "2018-04-01T25:00", "2018-04-01T00:00:31+", "2018-04-01T00:00:31.", "",
     "2018-04-01T00:00:31+25:00", "1969-12-31", "20180401", "2018-04-01T00:00:31ZZ", "2018-04-01T"],
)  # fmt: skip
def test_what_is_no_time_is_said(value):
    decoded = decode(schema_of(time_unit="iso"), records_of(line(ts=value)))
    assert decoded.bad[0].cause == f'ts is "{value}": not a time such as 2018-04-01T00:00:31Z'


def test_a_number_where_text_times_are_declared():
    schema = schema_of(time_unit="iso")
    decoded = decode(schema, records_of(line()))
    assert decoded.bad[0].cause == 'ts is 1000, a number; text is expected, since its unit is "iso"'


@pytest.mark.parametrize(
    "text",
    ["0.1", "1e22", "1e23", "123456789.12345679", "9007199254740993", "2.2250738585072011e-308", "4.9e-324", "1e-400",
     "0.000001", "-0", "1234567890123456789012e-15"],
)  # fmt: skip
def test_numbers_are_rounded_as_python_rounds_them(text):
    schema = schema_of({**FIELDS, "amount": "number(0)"})
    record = line().replace(b"12.5", text.encode())
    if abs(float(text)) <= schema.field("amount").limit:
        assert row_of(record, schema)["amount"] == float(text)
    else:
        assert "takes finite numbers up to" in cause_of(record, schema)


def test_a_long_record_is_refused():
    schema, long = schema_of(), line(more="x" * 500)
    decoded = decode(schema, records_of(line(), long), record_bytes_max=400)
    assert decoded.bad[0].cause == "the record is longer than 400 bytes"


@pytest.mark.parametrize("scanned_max", [0, 100, 1_000])
def test_very_large_batches_are_decoded_in_parts(monkeypatch, scanned_max):
    lines = [line(event_id=f"e{i}") if i % 3 else b"{broken" for i in range(50)]
    whole = decode(schema_of(), records_of(*lines))
    monkeypatch.setattr("connectors.decode.SCANNED_MAX", scanned_max)
    parts = decode(schema_of(), records_of(*lines))
    if scanned_max:
        assert parts.rows.equals(whole.rows)
        assert parts.index.tolist() == whole.index.tolist()
        assert parts.bad == whole.bad
    else:  # no record may be that long
        assert (len(parts.rows), len(parts.bad)) == (0, 50)
