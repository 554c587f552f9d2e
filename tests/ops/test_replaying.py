import csv
import json
import math

import pyarrow.parquet as pq
import pytest

from connectors.errors import ConnectorError
from connectors.files import open_files
from ops.pace import Pace, PacedInput
from ops.replaying import ReplayError, replay_files
from pipeline import App, Rule, Stream, Task

MINUTE_MS = 60_000


def make_app(tasks=1):
    payments = Stream(
        "payments", id="id", time="ts", lateness="5s", fields={"card": "string", "shop": "string", "amount": "money"}
    )
    hour = payments.by("card").last("1h")
    features = {
        "n": hour.count(),
        "total": hour.sum("amount"),
        "shops": hour.distinct("shop"),
        "z": hour.zscore("amount"),
    }
    made = [
        Task(
            f"t{i}",
            on=payments,
            features=features,
            model=None,
            learner=None,
            rules=[Rule("big", "total > 50", "block")],
        )
        for i in range(tasks)
    ]
    return App("test", tasks=made)


def write_lines(path, count=100, step_ms=MINUTE_MS):
    rows = [
        {"id": f"e{i}", "card": f"c{i % 3}", "shop": f"s{i % 5}", "amount": i, "ts": 1_767_571_200_000 + i * step_ms}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def open_input(app, path):
    return {"payments": open_files([path], app.plans["payments"].stream.schema, "payments")}


def replayed(tmp_path, name, app=None, count=100, **options):
    app = app or make_app()
    inputs = open_input(app, write_lines(tmp_path / "payments.jsonl", count))
    return replay_files(app, inputs, str(tmp_path / name), **options)


def test_features_stand_beside_the_events_id(tmp_path):
    done = replayed(tmp_path, "out.csv", count=4, features_only=True)
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "id,n,total,shops,z", '"e0",1,0,1,', '"e1",1,1,1,', '"e2",1,2,1,', '"e3",2,3,2,',
    ]  # fmt: skip
    assert done.events == 4
    assert done.ledgers["payments"].applied == 4
    assert done.decisions == {}


def test_counts_are_whole_numbers_and_unknown_is_null(tmp_path):
    replayed(tmp_path, "out.parquet", features_only=True)
    table = pq.read_table(tmp_path / "out.parquet")
    assert [str(kind) for kind in table.schema.types] == ["string", "int64", "double", "int64", "double"]
    assert table["z"].null_count > 0
    assert not any(math.isnan(z) for z in table["z"].drop_null().to_pylist())


def test_formats_agree(tmp_path):
    replayed(tmp_path, "out.csv", features_only=True)
    replayed(tmp_path, "out.jsonl", features_only=True)
    with (tmp_path / "out.csv").open(newline="") as file:
        from_csv = [
            {key: float(row[key]) if row[key] else None for key in ("n", "total", "shops", "z")}
            for row in csv.DictReader(file)
        ]
    from_json = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert from_csv == [{key: row[key] for key in ("n", "total", "shops", "z")} for row in from_json]


def test_rules_decide_where_nothing_else_does(tmp_path):
    done = replayed(tmp_path, "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {row["decision"] for row in rows if row["total"] > 50} == {"block"}
    assert done.decisions == {"allow": sum(r["total"] <= 50 for r in rows), "block": sum(r["total"] > 50 for r in rows)}
    assert set(done.where_time_goes) == {"decode", "features", "score", "encode"}
    assert min(done.where_time_goes.values()) > 0


def test_tasks_have_files_of_their_own(tmp_path):
    replayed(tmp_path, "out.csv.gz", app=make_app(tasks=2))
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out-t0.csv.gz", "out-t1.csv.gz"]


def test_several_tasks_do_not_fit_one_table(tmp_path):
    with pytest.raises(ReplayError, match="sqlite:///x cannot take the rows of 2 tasks; give a file or a folder"):
        replay_files(make_app(2), open_input(make_app(2), write_lines(tmp_path / "payments.jsonl")), "sqlite:///x")


def test_without_the_decided_stream_there_is_nothing_to_do(tmp_path):
    with pytest.raises(ReplayError, match="no input is of a stream that is decided; give one of payments"):
        replay_files(make_app(), {})


def test_a_replay_that_breaks_leaves_no_whole_looking_file(tmp_path):
    app = make_app()
    gone = open_input(app, write_lines(tmp_path / "payments.jsonl"))
    (tmp_path / "payments.jsonl").unlink()
    with pytest.raises(ConnectorError, match="cannot be read"):
        replay_files(app, gone, str(tmp_path / "out.csv"), True)
    assert not (tmp_path / "out.csv").exists()


def test_progress_ends_at_the_end(tmp_path):
    app, seen = make_app(), []
    inputs = open_input(app, write_lines(tmp_path / "payments.jsonl"))
    replay_files(app, inputs, None, True, progress=lambda *step: seen.append(step))
    size = (tmp_path / "payments.jsonl").stat().st_size
    assert seen[-1] == (size, size, 100)


class Clock:
    def __init__(self):
        self.now_s, self.slept = 100.0, []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now_s += seconds


def test_events_wait_for_their_time(tmp_path):
    clock = Clock()
    pace = Pace(60.0, lambda: clock.now_s, clock.sleep)  # a minute of events in a second
    app = make_app()
    inputs = PacedInput(open_input(app, write_lines(tmp_path / "payments.jsonl"))["payments"], pace)
    for block in inputs.blocks():
        pace.wait(inputs.decode_block(block).decoded.rows.column("ts").to_numpy())
    assert clock.now_s == pytest.approx(100.0 + 99.0)
    assert max(clock.slept) <= 1.0


def test_fast_events_go_together(tmp_path):
    clock = Clock()
    pace = Pace(1e6, lambda: clock.now_s, clock.sleep)
    app = make_app()
    source = open_input(app, write_lines(tmp_path / "payments.jsonl", 5000, step_ms=1000))["payments"]
    inputs, sizes = PacedInput(source, pace), []
    for block in inputs.blocks():
        sizes.append(len(block))
        pace.wait(inputs.decode_block(block).decoded.rows.column("ts").to_numpy())
    assert sum(sizes) == 5000
    assert max(sizes) == 4096


def test_speed_does_not_change_what_comes_out(tmp_path):
    replayed(tmp_path, "fast.csv", features_only=True)
    replayed(tmp_path, "paced.csv", features_only=True, speed=1e7)
    assert (tmp_path / "fast.csv").read_bytes() == (tmp_path / "paced.csv").read_bytes()
