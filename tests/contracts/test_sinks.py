"""What every sink must do: nothing written is lost or changed, and a broken run leaves nothing that looks whole."""

import contextlib
import csv
import gzip
import io
import json
import math
import sqlite3

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.errors import ConnectorError
from connectors.sinks import MemorySink, open_sink

HOUR_MS = 3_600_000
SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("task", pa.string()),
        ("time_ms", pa.int64()),
        ("decision", pa.string()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("rule", pa.string()),
        ("reasons", pa.list_(pa.string())),
        ("bundle", pa.string()),
        ("snapshot", pa.string()),
        ("rung", pa.string()),
        ("source_offset", pa.int64()),
        ("amount", pa.float64()),
        ("hour", pa.float64()),
    ]
)
NASTY = ["plain", 'quo"te', "back\\slash", "comma,", "new\nline", "tab\tend", "\u0001", "grüße €", "", "it's"]


def decisions(first, count, hours=4):
    rng = np.random.default_rng(first)
    numbers = range(first, first + count)
    return [
        {
            "event_id": f"e{i} {NASTY[i % len(NASTY)]}",
            "task": "risk",
            "time_ms": (i % hours) * HOUR_MS + i,
            "decision": ["allow", "review", "block"][i % 3],
            "score": rng.random(),
            "threshold": 0.85,
            "rule": None if i % 2 else NASTY[i % len(NASTY)],
            "reasons": [[], ["amount is high"], NASTY][i % 3],
            "bundle": "41c9e2",
            "snapshot": "7",
            "rung": "moe+ftrl",
            "source_offset": i,
            "amount": [1e-7, 12.5, 1e20, -0.25, 3.0][i % 5],
            "hour": None if i % 4 == 0 else float(i % 24),
        }
        for i in numbers
    ]


def batch(rows):
    return pa.RecordBatch.from_pylist(rows, SCHEMA)


def in_order(rows):
    return sorted(rows, key=lambda row: row["source_offset"])


def text_of(path):
    return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()


def read_jsonl(path):
    return [json.loads(line) for line in text_of(path).split("\n")[:-1]]


def read_csv(path):
    rows = list(csv.DictReader(io.StringIO(text_of(path), newline="")))
    for row in rows:
        row["reasons"] = json.loads(row["reasons"])
        row["rule"] = row["rule"] or None
        for name in ("time_ms", "source_offset"):
            row[name] = int(row[name])
        for name in ("score", "threshold", "amount", "hour"):
            row[name] = float(row[name]) if row[name] else None
    return rows


def read_parquet(path):
    return pq.read_table(path).to_pylist()


def read_folder(path):
    return [row for file in path.glob("*.parquet") for row in pq.read_table(file).to_pylist()]


def read_sql(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        rows = [dict(row) for row in db.execute("SELECT * FROM decisions")]
    return [
        {**{k: v for k, v in row.items() if k != "features"}, "reasons": json.loads(row["reasons"])}
        | json.loads(row["features"])
        for row in rows
    ]


KINDS = {
    "x.jsonl": read_jsonl,
    "x.ndjson": read_jsonl,
    "x.json": read_jsonl,
    "x.jsonl.gz": read_jsonl,
    "x.csv": read_csv,
    "x.csv.gz": read_csv,
    "x.parquet": read_parquet,
    "hourly/": read_folder,
    "sqlite:///x.db": read_sql,
}


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


def target(kind, folder):
    return f"sqlite:///{folder}/x.db" if "://" in kind else f"{folder}/new/{kind}"


def written(kind, folder):
    path = folder / "x.db" if "://" in kind else folder / "new" / kind
    return KINDS[kind](path)


def test_what_is_written_is_there_after_close(kind, tmp_path):
    rows = decisions(0, 2500)
    sink = open_sink(target(kind, tmp_path))
    for size in (0, 1, 999, 1500):
        sink.write(batch(rows[:size]))
        rows = rows[size:]
        sink.flush()
    sink.close()
    got, expected = in_order(written(kind, tmp_path)), decisions(0, 2500)
    if kind == "x.csv" or kind == "x.csv.gz":  # an empty text and no text are the same there
        expected = [{**row, "rule": row["rule"] or None} for row in expected]
    assert got == expected


def test_nan_is_null(kind, tmp_path):
    sink = open_sink(target(kind, tmp_path))
    sink.write(batch([{**decisions(0, 1)[0], "amount": math.nan}]))
    sink.close()
    assert written(kind, tmp_path)[0]["amount"] is None


def test_a_sink_that_is_abandoned_leaves_nothing_that_looks_whole(kind, tmp_path):
    sink = open_sink(target(kind, tmp_path))
    sink.write(batch(decisions(0, 10, hours=2)))
    sink.abandon()
    whole = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".partial", ".db")]
    assert whole == []


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("old")
    sink = open_sink(path)
    sink.write(batch(decisions(0, 10)))
    sink.flush()
    assert path.read_text() == "old"
    sink.close()
    assert len(read_csv(path)) == 10
    assert list(tmp_path.iterdir()) == [path]


def test_a_slice_and_a_dictionary_are_written_as_what_they_stand_for(tmp_path):
    rows = batch(decisions(0, 30))
    coded = rows.set_column(1, "task", rows.column("task").dictionary_encode())
    for sink in (open_sink(tmp_path / "x.jsonl"), open_sink(tmp_path / "x.csv")):
        sink.write(coded.slice(7, 11))
        sink.close()
    assert read_jsonl(tmp_path / "x.jsonl") == decisions(0, 30)[7:18]
    assert [row["source_offset"] for row in read_csv(tmp_path / "x.csv")] == list(range(7, 18))


def test_other_types_are_written_as_json(tmp_path):
    sink = open_sink(tmp_path / "x.jsonl")
    sink.write(
        pa.record_batch({"flag": [True, None], "deep": [{"a": [1]}, None], "none": pa.nulls(2), "x": [math.inf, 1]})
    )
    sink.write(pa.record_batch({}))
    sink.close()
    assert read_jsonl(tmp_path / "x.jsonl") == [
        {"flag": True, "deep": {"a": [1]}, "none": None, "x": None},
        {"flag": None, "deep": None, "none": None, "x": 1},
    ]


def test_a_resumed_file_goes_on_after_its_last_whole_line(tmp_path):
    path = tmp_path / "x.jsonl"
    sink = open_sink(path, resume=True)
    sink.write(batch(decisions(0, 5)[:3]))
    sink.flush()
    assert read_jsonl(path) == decisions(0, 5)[:3]  # there at once, for whoever follows the file
    sink.abandon()
    with path.open("a") as file:
        file.write('{"event_id":"torn' + "x" * 200_000)
    sink = open_sink(path, resume=True)
    sink.write(batch(decisions(0, 5)[3:]))
    sink.close()
    assert read_jsonl(path) == decisions(0, 5)


def test_hours_get_files_of_their_own_and_late_rows_a_new_part(tmp_path):
    sink = open_sink(f"{tmp_path}/")
    sink.write(batch(decisions(0, 12, hours=6)))  # more hours than files may be open
    sink.flush()
    sink.write(batch(decisions(12, 1, hours=1)))
    sink.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"decisions-1970-01-01T{hour:02d}-0001.parquet" for hour in range(6)][:1] + [
        "decisions-1970-01-01T00-0002.parquet"
    ] + [f"decisions-1970-01-01T{hour:02d}-0001.parquet" for hour in range(1, 6)]


def test_decisions_that_come_twice_are_in_the_database_once(tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    for again in range(2):
        sink = open_sink(url)
        sink.write(batch(decisions(0, 10)))
        sink.write(batch([{**row, "decision": f"allow {again}"} for row in decisions(5, 10)]))
        sink.close()
    got = in_order(read_sql(tmp_path / "x.db"))
    assert len(got) == 15
    assert [row["decision"] for row in got[5:]] == ["allow 1"] * 10


def test_a_database_without_a_native_upsert_ends_up_the_same(tmp_path):
    from connectors.sql_sink import SqlSink

    sink = SqlSink(f"sqlite:///{tmp_path}/x.db")
    sink._upsert = sink._delete_and_insert
    sink.write(batch(decisions(0, 10)))
    sink.flush()
    sink.write(batch(decisions(5, 10)))
    sink.close()
    assert in_order(read_sql(tmp_path / "x.db")) == decisions(0, 10)[:5] + decisions(5, 10)


def test_a_value_is_never_part_of_a_statement(tmp_path):
    sink = open_sink(f"sqlite:///{tmp_path}/x.db")
    evil = "'); DROP TABLE decisions; --"
    sink.write(batch([{**decisions(0, 1)[0], "event_id": evil}]))
    sink.close()
    assert read_sql(tmp_path / "x.db")[0]["event_id"] == evil


def test_the_sink_in_memory_keeps_what_it_gets():
    sink = MemorySink()
    sink.write(batch(decisions(0, 3)))
    sink.close()
    assert sink.batches == [batch(decisions(0, 3))]
    with pytest.raises(ConnectorError, match="the sink in memory is closed; write before close"):
        sink.write(batch(decisions(0, 3)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("x.txt", r"output 'x.txt': unknown ending '.txt'; use .csv, .jsonl"),
        ("x", "output 'x': unknown ending 'none'"),
        ("x.parquet.gz", r"unknown ending '.parquet.gz'"),
        ("nothing://host/x", "database URL with scheme 'nothing' is not understood"),
        ("/proc/none/x.csv", "output '/proc/none/x.csv': No such file or directory; free space or give a path"),
        ("sqlite:////proc/none/x.db", r"database sqlite:////proc/none/x.db, table 'decisions': unable to open"),
    ],
)
def test_a_target_that_cannot_be_is_told(bad, message):
    with pytest.raises(ConnectorError, match=message):
        open_sink(bad)


def test_only_some_files_can_be_resumed(tmp_path):
    with pytest.raises(ConnectorError, match=r"x.csv' cannot be resumed; use a .jsonl file"):
        open_sink(tmp_path / "x.csv", resume=True)
    with pytest.raises(ConnectorError, match=r"x.jsonl.gz' cannot be resumed, it is compressed"):
        open_sink(tmp_path / "x.jsonl.gz", resume=True)


def test_a_full_disk_is_told(tmp_path):
    full = tmp_path / "x.jsonl"
    full.symlink_to("/dev/full")
    (tmp_path / "y.jsonl.partial").symlink_to("/dev/full")
    sink = open_sink(tmp_path / "y.jsonl")
    with pytest.raises(ConnectorError, match=r"y.jsonl': No space left on device; free space"):
        sink.write(batch(decisions(0, 10)))


def test_columns_that_change_in_the_middle_are_told(tmp_path):
    for name in ("x.csv", "x.parquet"):
        sink = open_sink(tmp_path / name)
        sink.write(pa.record_batch({"a": [1]}))
        with pytest.raises(ConnectorError, match=r"columns changed in the middle of the file \(a: int64, b: int64\)"):
            sink.write(pa.record_batch({"b": [1]}))
        sink.abandon()


def test_rows_that_are_no_decisions_are_told(tmp_path):
    with pytest.raises(ConnectorError, match="rows have no event_id and task; only decisions can be written"):
        open_sink(f"sqlite:///{tmp_path}/x.db").write(pa.record_batch({"a": [1]}))
    with pytest.raises(ConnectorError, match="hourly files need the column 'time_ms' in milliseconds, got a"):
        open_sink(f"{tmp_path}/").write(pa.record_batch({"a": [1]}))
    with pytest.raises(ConnectorError, match="a row has no 'time_ms'; fill it in first"):
        open_sink(f"{tmp_path}/").write(pa.record_batch({"time_ms": pa.array([None], pa.int64())}))


def test_a_table_of_another_shape_is_told(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as db:
        db.execute("CREATE TABLE decisions (event_id, task, time_ms, decision)")
    with pytest.raises(ConnectorError, match="it exists without the columns score, threshold, rule"):
        open_sink(f"sqlite:///{tmp_path}/x.db")


def test_whole_numbers_are_written_exactly_whatever_their_size(tmp_path):
    columns = [[0.0, 5.0, -7.0], [1e15, 2.0, 3.0], [2.0**53, 1e300, -1e-300], [3.0, 0.5, 1.0], [1.0, None, 2.0]]
    sink = open_sink(tmp_path / "x.jsonl")
    sink.write(pa.record_batch({str(i): pa.array(column, pa.float64()) for i, column in enumerate(columns)}))
    sink.close()
    assert [[row[str(i)] for row in read_jsonl(tmp_path / "x.jsonl")] for i in range(5)] == columns
