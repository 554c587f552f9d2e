import datetime
import decimal
import io
import math

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pytest

from connectors import csv_text
from connectors.csv_text import csv_lines, csv_name


def text_of(columns):
    return b"".join(csv_lines(pa.record_batch(columns))).decode()


def test_one_of_each_kind():
    moment = datetime.datetime(2026, 1, 5, 9, 30)
    rows = {
        "text": ["a", 'say "hi", twice', None, "", "longer than eight bytes, ünicode"],
        "number": [0.1, None, math.nan, -2.5, 3.0],
        "count": [1, -2, 0, 10**12, 7],
        "maybe": pa.array([1, None, 3, 4, 5], pa.int64()),
        "yes": [True, False, None, True, True],
        "when": pa.array([moment] * 5, pa.timestamp("ms")),
        "list": [["a"], [], None, ['"'], ["b", "c"]],
        "small": pa.array([0.1, None, math.nan, 1.5, 2.0], pa.float32()),
        "bytes": [b"1", b'"', None, b"\n", b"x"],
        "exact": pa.array([decimal.Decimal("1.50")] * 5, pa.decimal128(5, 2)),
        "huge": pa.array([2**64 - 1] * 5, pa.uint64()),
        "word": pa.array(["x", "y", None, "x", "x"]).dictionary_encode(),
    }
    t = "2026-01-05 09:30:00.000"
    assert text_of(rows).split("\n") == [
        f'"a",0.1,1,1,true,{t},"[""a""]",0.1,"1",1.50,18446744073709551615,"x"',
        f'"say ""hi"", twice",,-2,,false,{t},"[]",,"""",1.50,18446744073709551615,"y"',
        f",,0,3,,{t},,,,1.50,18446744073709551615,",
        f'"",-2.5,1000000000000,4,true,{t},"[""\\""""]",1.5,"',
        '",1.50,18446744073709551615,"x"',
        f'"longer than eight bytes, ünicode",3,7,5,true,{t},"[""b"",""c""]",2,"x",1.50,18446744073709551615,"x"',
        "",
    ]


@pytest.mark.parametrize("rows", [1, 99, 5000])
def test_agrees_with_arrow_whatever_the_blocks(rows, monkeypatch):
    monkeypatch.setattr(csv_text, "ROWS_AT_ONCE", 700)
    rng = np.random.default_rng(3)
    texts = ["", "e", "event-1", "12345678", "123456789012", None, 'a "quoted" word', "line\nbreak", "€" * 30]
    table = pa.record_batch({
        "id": [texts[i] for i in rng.integers(0, len(texts), rows)],
        "x": rng.normal(0, 1e3, rows),
        "n": rng.integers(-(2**62), 2**62, rows),
        "money": np.round(rng.random(rows) * 1e4, 2),
    })  # fmt: skip
    theirs = io.BytesIO()
    pcsv.write_csv(table, theirs, pcsv.WriteOptions(include_header=False))
    assert b"".join(csv_lines(table)) == theirs.getvalue()


def test_a_slice_is_written_as_it_stands():
    table = pa.record_batch({"id": ["a", "b", None, "d"], "x": [1.0, None, 2.5, 4.0], "n": [1, 2, 3, 4]})
    assert b"".join(csv_lines(table.slice(1, 2))) == b'"b",,2\n,2.5,3\n'


def test_no_rows_are_no_lines():
    assert list(csv_lines(pa.record_batch({"id": pa.array([], pa.string()), "x": pa.array([], pa.float64())}))) == []


def test_names_are_quoted_where_they_must():
    assert [csv_name(name) for name in ("a", "a,b", 'a"b')] == ["a", '"a,b"', '"a""b"']
