"""Tables (Parquet, data frames) to rows of a schema."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from connectors.decode_table import decode_table
from connectors.schema import Schema, parse_field

FIELDS = {"event_id": "string", "amount": "money", "clicks": "int?", "known": "bool?", "ts": "int"}
TIME = datetime(2018, 4, 1, 0, 0, 31, tzinfo=UTC)


def schema_of(time_unit: str = "ms") -> Schema:
    return Schema(tuple(parse_field(*each) for each in FIELDS.items()), "event_id", "ts", time_unit)


def batch_of(**changes: pa.Array) -> pa.RecordBatch:
    columns = {"event_id": pa.array(["e1"]), "amount": pa.array([12.5]), "ts": pa.array([1000]), **changes}
    return pa.record_batch(list(columns.values()), names=list(columns))


def value_of(name: str, column: pa.Array, time_unit: str = "ms") -> object:
    decoded = decode_table(schema_of(time_unit), batch_of(**{name: column}))
    assert decoded.bad == []
    assert decoded.rows.schema == schema_of().arrow
    return decoded.rows[name].to_pylist()[0]


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("event_id", pa.array(["é"], pa.large_string()), "é"),
        ("event_id", pa.array(["a"]).dictionary_encode(), "a"),
        ("amount", pa.array([3], pa.int8()), 3.0),
        ("amount", pa.array([1.5], pa.float32()), 1.5),
        ("amount", pa.array([Decimal("2.25")]), 2.25),
        ("clicks", pa.array([4.0]), 4),
        ("clicks", pa.array([None], pa.float64()), None),
        ("clicks", pa.array([9], pa.uint64()), 9),
        ("known", pa.array([1], pa.int8()), True),
        ("known", pa.array([False]), False),
        ("known", pa.array([None]), None),
        ("ts", pa.array([TIME], pa.timestamp("us", "UTC")), 1522540831000),
        ("ts", pa.array([TIME.replace(tzinfo=None)], pa.timestamp("s")), 1522540831000),
        ("ts", pa.array([date(2018, 4, 1)]), 1522540800000),
        ("ts", pa.array([1500.0]), 1500),
    ],
)
def test_types_may_differ_as_long_as_the_value_fits(name, column, value):
    assert value_of(name, column) == value


def test_text_times_need_the_iso_unit():
    assert value_of("ts", pa.array(["2018-04-01T00:00:31Z"]), "iso") == 1522540831000


@pytest.mark.parametrize(
    ("name", "column", "cause"),
    [
        ("event_id", pa.array([12]), 'event_id is 12, a number; declare it as "int"'),
        ("event_id", pa.array([""]), "event_id is empty; every record needs an id of its own"),
        ("event_id", pa.array([b"\xff"]).view(pa.string()), "event_id is not valid UTF-8"),
        ("amount", pa.array([float("nan")]), "amount is nan; money takes finite numbers up to 7.03687e+09"),
        ("amount", pa.array(["12"]), 'amount is "12", text; it is declared as "money"'),
        ("amount", pa.array([None], pa.float64()), 'amount is missing or null; declare it as "money?" if it may be'),
        ("clicks", pa.array([1.5]), 'clicks is 1.5, not a whole number; declare it as "number"'),
        (
            "clicks",
            pa.array([2**64 - 1], pa.uint64()),
            "clicks is 18446744073709551615; int takes finite numbers up to 7.03687e+13",
        ),
        ("known", pa.array([2]), 'known is 2, a number; it is declared as "bool"'),
        ("ts", pa.array([-1]), 'ts is -1: outside the years 1970 to 9999, read as "ms"'),
        ("ts", pa.array(["2018"]), 'ts is "2018", text; numbers are expected, since its unit is "ms"'),
    ],
)
def test_a_value_that_does_not_fit_is_named(name, column, cause):
    decoded = decode_table(schema_of(), batch_of(**{name: column}))
    assert len(decoded.rows) == 0
    assert decoded.bad[0].cause.startswith(cause)


def test_only_the_bad_row_is_taken_out():
    batch = pa.record_batch({"event_id": ["a", None, "c"], "amount": [1.0, 2.0, 3.0], "ts": [1, 2, 3], "x": [1, 2, 3]})
    decoded = decode_table(schema_of(), batch)
    assert decoded.rows["event_id"].to_pylist() == ["a", "c"]
    assert decoded.index.tolist() == [0, 2]
    assert decode_table(schema_of(), batch[2:]).rows["event_id"].to_pylist() == ["c"]
