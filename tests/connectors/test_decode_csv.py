"""CSV lines to columns."""

import numpy as np
import pyarrow as pa
import pytest

from connectors.decode import CsvHeader, decode_csv
from connectors.errors import ConnectorError
from connectors.records import Decoded, Records
from connectors.schema import Schema, parse_field

SCHEMA = Schema(
    tuple(parse_field(*each) for each in
          [("event_id", "string"), ("amount", "money"), ("clicks", "int?"), ("known", "bool?"), ("ts", "int")]),
    "event_id", "ts", "iso",
)  # fmt: skip
HEADER = CsvHeader.parse("ts,unused,event_id,amount,clicks,known\n")
GOOD = b"2018-04-01,x,e1,12.5,3,true\n"


def decode_lines(*lines: bytes, header: CsvHeader = HEADER) -> Decoded:
    values = pa.array(lines, pa.large_binary())
    return decode_csv(SCHEMA, header, Records("payments", 0, values, np.arange(len(lines), dtype=np.int64)))


def test_columns_are_found_by_name():
    row = {"event_id": "e1", "amount": 12.5, "clicks": 3, "known": True, "ts": 1522540800000}
    assert decode_lines(GOOD).rows.to_pylist() == [row]


@pytest.mark.parametrize(
    ("cell", "text"),
    [(b'"a,b"', "a,b"), (b'"say ""hi"""', 'say "hi"'), (b'5 inch"', '5 inch"'), ("é€".encode(), "é€"), (b" x ", " x ")],
)
def test_cells_in_quotes(cell, text):
    assert decode_lines(GOOD.replace(b"e1", cell)).rows["event_id"].to_pylist() == [text]


@pytest.mark.parametrize(
    ("cell", "number"),
    [("5.", 5), (".5", 0.5), ("+3", 3), ("1e3", 1000), (" 7 ", 7), ("-007", -7), ("+1.00000000000000000001", 1.0)],
)
def test_numbers_as_spreadsheets_write_them(cell, number):
    assert decode_lines(GOOD.replace(b"12.5", cell.encode())).rows["amount"].to_pylist() == [number]


@pytest.mark.parametrize(("cell", "known"), [("1", True), ("0", False), ("TRUE", True), ("False", False), ("", None)])
def test_booleans_as_tools_write_them(cell, known):
    assert decode_lines(GOOD.replace(b"true", cell.encode())).rows["known"].to_pylist() == [known]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b"2018-04-01,x,,12.5,3,true\n", "event_id is missing or null"),
        (b'2018-04-01,x,"",12.5,3,true\n', "event_id is empty; every record needs an id of its own"),
        (b"2018-04-01,x,e1,abc,3,true\n", 'amount is "abc", text; it is declared as "money"'),
        (b"2018-04-01,x,e1,nan,3,true\n", 'amount is "nan", text; it is declared as "money"'),
        (b"2018-04-01,x,e1,12.5,3.5,true\n", 'clicks is 3.5, not a whole number; declare it as "number"'),
        (b"2018-04-01,x,e1,12.5,3,yes\n", 'known is "yes", text; it is declared as "bool"'),
        (b"2018-04-01,x,e1,12.5,3\n", "the line has 5 cells, the header 6"),
        (b"2018-04-01,x,e1,12.5,3,true,\n", "the line has more cells than the header, 6"),
        (b'2018-04-01,x,"e1,12.5,3,true\n', "the record is broken: a quoted cell is not closed on its line; line "
                                            "breaks inside cells are not supported"),
        (b'2018-04-01,x,"e"1,12.5,3,true\n', "the record is broken: what stands at byte 16 does not belong there"),
        (b"2018-04-01,x,\xff,12.5,3,true\n", "the record is broken: byte 13 is not valid UTF-8"),
        (b"2018-04-01,x,e1,12\n.5,3,true\n", "the record is broken: a line break at byte 18; write each record on one "
                                             "line"),
        (b"\n", "the record is empty"),
    ],
)  # fmt: skip
def test_a_bad_line_harms_no_other(line, cause):
    decoded = decode_lines(GOOD, line, GOOD)
    assert decoded.index.tolist() == [0, 2]
    assert decoded.bad[0].cause == cause


def test_a_header_must_name_each_column_once():
    with pytest.raises(ConnectorError, match="names 'a' twice"):
        CsvHeader.parse("a,b,a\n")
    with pytest.raises(ConnectorError, match="is empty"):
        CsvHeader.parse("\n")


def test_a_field_without_a_column_is_null():
    header = CsvHeader.parse("ts;event_id;amount", delimiter=";")
    decoded = decode_lines(b"2018-04-01;e;1\r\n", header=header)
    assert decoded.rows["clicks"].to_pylist() == [None]


def test_random_lines_are_read_as_the_csv_module_reads_them():
    import csv
    import io
    import random

    rng = random.Random(5)
    lines, expected = [], []
    for _ in range(3_000):
        text = "".join(rng.choice('ab ",;é\t') for _ in range(rng.randrange(1, 12)))
        out = io.StringIO()
        csv.writer(out).writerow(["2018-04-01", text[::-1], text, "1", "", ""])
        lines.append(out.getvalue().encode())
        expected.append(text)
    assert decode_lines(*lines).rows["event_id"].to_pylist() == expected
