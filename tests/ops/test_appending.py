"""Rows of tables become the JSON that their stream declares."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.files import open_files
from connectors.memory_log import MemoryLog
from ops.appending import append_files
from pipeline import App, Stream, Task

TIMES_MS = [1767571200000, 1767571201000]
WRITTEN = {
    "ms": TIMES_MS, "s": [each // 1000 for each in TIMES_MS], "us": [each * 1000 for each in TIMES_MS],
    "iso": ["2026-01-05T00:00:00Z", "2026-01-05T00:00:01Z"],
}  # fmt: skip


def nothing(*_):
    """Stand for what is told or waited for."""


@pytest.mark.parametrize("unit", WRITTEN)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_time_keeps_its_moment_in_the_declared_unit(tmp_path, unit, kind):
    stream = Stream("events", id="id", time="at", time_unit=unit, fields={"x": "number?"})
    app = App("a", tasks=[Task("t", on=stream, features={"count": stream.by("id").last("1h").count()})])
    path = tmp_path / f"events.{kind}"
    if kind == "csv":
        path.write_text("id,at,x\n" + "".join(f"{n},{at},\n" for n, at in enumerate(WRITTEN[unit])))
    else:
        pq.write_table(pa.table({"id": ["0", "1"], "at": WRITTEN[unit], "x": [None, None]}), path)
    log = MemoryLog()
    appended = append_files(
        app, log, {"events": open_files([path], stream.schema, "events")}, None, lambda: 0, nothing, nothing
    )
    assert appended == {"events": (2, 2)}
    lines = [json.loads(line) for line in log.read("events", 0, 0, 10).values.to_pylist()]
    again = tmp_path / "again.jsonl"
    again.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (chunk,) = open_files([again], stream.schema, "events")
    assert chunk.decoded.rows.column("at").to_pylist() == TIMES_MS


def test_a_rate_waits_between_batches(tmp_path):
    stream = Stream("events", id="id", time="at", fields={"x": "number"})
    app = App("a", tasks=[Task("t", on=stream, features={"count": stream.by("id").last("1h").count()})])
    path = tmp_path / "events.jsonl"
    path.write_text("".join(f'{{"id":"{n}","at":{TIMES_MS[0] + n},"x":1}}\n' for n in range(50)))
    now_ms = 0.0

    def sleep(seconds):
        nonlocal now_ms
        now_ms += 1000 * seconds

    source = open_files([path], stream.schema, "events")
    append_files(app, MemoryLog(), {"events": source}, 20.0, lambda: round(now_ms), sleep, nothing)
    assert 2_400 <= now_ms <= 2_600, "50 records at 20 a second"
