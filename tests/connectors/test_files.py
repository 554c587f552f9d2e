"""Files of events: every format gives the same chunks, in order, and says clearly what is wrong."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.decode import decode
from connectors.files import FileInputError, open_files
from connectors.line_files import LINE_BYTES_KEPT
from connectors.records import Records
from connectors.schema import Schema, parse_field

SCHEMA = Schema(
    (parse_field("event_id", "string"), parse_field("amount", "money"), parse_field("note", "string?"),
     parse_field("ts", "int")), "event_id", "ts",
)  # fmt: skip
EVENTS = [
    {"event_id": f"e{i}", "amount": i / 4, "note": "ü" * (i % 5) if i % 3 else None, "ts": i} for i in range(1_000)
]


def json_lines(events: list[dict]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def csv_lines(events: list[dict]) -> bytes:
    notes = ["" if event["note"] is None else f'"{event["note"]}"' for event in events]
    rows = [f"{e['ts']},{e['event_id']},{e['amount']},{note}" for e, note in zip(events, notes, strict=True)]
    return "\n".join(["ts,event_id,amount,note", *rows, ""]).encode()


def write(folder, name, events):
    path = folder / name
    if ".parquet" in name:
        pq.write_table(pa.Table.from_pylist(events), path, row_group_size=300)
        return path
    content = csv_lines(events) if ".csv" in name else json_lines(events)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def rows_of(chunks) -> list[dict]:
    return [row for chunk in chunks for row in chunk.decoded.rows.to_pylist()]


@pytest.mark.parametrize("batch", [(7, 64), (1000, 1 << 20), (1, 1)])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.parquet"])
def test_every_format_gives_the_same_rows_in_order(tmp_path, name, batch):
    paths = [write(tmp_path, name, EVENTS[:600]), write(tmp_path, f"b{name}", EVENTS[600:])]
    files = open_files(paths, SCHEMA, "payments", *batch)
    chunks = list(files)
    assert rows_of(chunks) == EVENTS
    assert np.concatenate([chunk.offsets for chunk in chunks]).tolist() == list(range(1_000))
    assert max(len(chunk) for chunk in chunks) <= batch[0]
    assert all(chunk.stream == "payments" and chunk.append_ms is None for chunk in chunks)
    assert files.bytes_read == files.bytes_total == sum(path.stat().st_size for path in paths)


def test_blocks_may_be_decoded_by_several_threads(tmp_path):
    files = open_files([write(tmp_path, "a.jsonl", EVENTS)], SCHEMA, "payments", batch_bytes=500)
    with ThreadPoolExecutor(2) as pool:
        assert rows_of(pool.map(files.decode_block, files.blocks())) == EVENTS


def test_a_bad_line_keeps_its_bytes_and_its_offset(tmp_path):
    lines = json_lines(EVENTS).splitlines(keepends=True)
    lines[500] = b'{"broken\n'
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(lines))
    chunks = list(open_files([path], SCHEMA, "payments", batch_bytes=1_000))
    assert rows_of(chunks) == EVENTS[:500] + EVENTS[501:]
    (found,) = [(chunk.offsets[bad.index], chunk.raw(bad.index)) for chunk in chunks for bad in chunk.decoded.bad]
    assert found == (500, b'{"broken\n')


@pytest.mark.parametrize("batch_bytes", [1, 2, 3, 50, 1 << 20])
def test_lines_with_nothing_on_them_are_no_records(tmp_path, batch_bytes):
    first, second = (json_lines([event]).strip() for event in EVENTS[:2])
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf\n\r\n" + first + b"\r\n\n\n\r\n" + second
    )  # with a byte order mark, without a last newline
    chunks = list(open_files([path], SCHEMA, "payments", batch_bytes=batch_bytes))
    assert rows_of(chunks) == EVENTS[:2]
    assert [chunk.raw(i) for chunk in chunks for i in range(len(chunk))] == [first + b"\r\n", second]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_empty_files_have_no_chunks(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"")
    assert list(open_files([path], SCHEMA, "payments")) == []


def test_a_line_of_any_length_takes_bounded_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        json_lines(EVENTS[:1]) + b'{"x":"' + b"y" * (LINE_BYTES_KEPT + (9 << 20)) + b'"}\n' + json_lines(EVENTS[1:2])
    )
    chunks = list(open_files([path], SCHEMA, "payments", batch_bytes=1 << 20))
    assert rows_of(chunks) == EVENTS[:2]
    (bad,) = [(chunk.offsets[bad.index], bad.cause) for chunk in chunks for bad in chunk.decoded.bad]
    assert bad == (1, "the record is longer than 1048576 bytes")
    assert max(len(chunk.raw(i)) for chunk in chunks for i in range(len(chunk))) <= LINE_BYTES_KEPT + (2 << 20)


def test_a_bad_row_of_parquet_becomes_a_line_that_can_be_read_again(tmp_path):
    time = datetime(2018, 4, 1, tzinfo=UTC)
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"event_id": ["a", "b"], "amount": [1.0, None], "ts": [time, time], "left out": [1, 2]}), path
    )
    (chunk,) = open_files([path], SCHEMA, "payments")
    assert chunk.decoded.rows["ts"].to_pylist() == [1522540800000]
    assert [bad.index for bad in chunk.decoded.bad] == [1]
    assert chunk.raw(1) == b'{"event_id":"b","amount":null,"ts":1522540800000}\n'
    again = decode(SCHEMA, Records("t", 0, pa.array([chunk.raw(0)], pa.large_binary()), np.zeros(1, np.int64)))
    assert again.rows.to_pylist() == chunk.decoded.rows.to_pylist()


def test_a_file_that_is_not_there(tmp_path):
    write(tmp_path, "events.jsonl", EVENTS[:1])
    with pytest.raises(FileInputError, match=r"event.jsonl does not exist; did you mean events.jsonl\?"):
        open_files([tmp_path / "event.jsonl"], SCHEMA, "payments")


@pytest.mark.parametrize("name", ["a.txt", "a", "a.parquet.gz", ".gz"])
def test_an_ending_that_nobody_knows(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(FileInputError, match=r"it must be \.jsonl, \.ndjson"):
        open_files([tmp_path / name], SCHEMA, "payments")


def test_nothing_or_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileInputError, match="no file was given"):
        open_files([], SCHEMA, "payments")
    with pytest.raises(FileInputError, match="is not a file; name the files in it"):
        open_files([tmp_path], SCHEMA, "payments")


def test_a_column_that_is_missing_is_named_with_its_neighbour(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("event_id,amonut,ts\n1,2,3\n")
    with pytest.raises(FileInputError, match=r"a.csv has no column 'amount'; did you mean 'amonut'\?"):
        list(open_files([path], SCHEMA, "payments"))
    pq.write_table(pa.table({"event_id": ["a"], "ts": [1]}), tmp_path / "a.parquet")
    with pytest.raises(FileInputError, match="has no column 'amount'; its columns are event_id, ts"):
        list(open_files([tmp_path / "a.parquet"], SCHEMA, "payments"))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet"])
def test_a_file_that_is_not_what_its_ending_says(tmp_path, name):
    (tmp_path / name).write_bytes(json_lines(EVENTS))
    with pytest.raises(FileInputError, match=r"cannot be read after 0 records: "):
        list(open_files([tmp_path / name], SCHEMA, "payments"))


def test_gzip_that_is_cut_off(tmp_path):
    path = write(tmp_path, "a.jsonl.gz", EVENTS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileInputError, match="Compressed file ended before"):
        list(open_files([path], SCHEMA, "payments", batch_bytes=1_000))
