"""The demo: its stream, its producer, its models, and the command as a new user sees it in a pipe."""

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from connectors.secrets import Tokeniser
from models.bundle import read_bundle
from models.metrics import roc_auc
from models.scorer import Scorer
from ops.demo.playing import what_next
from ops.demo.stage import APP, BUNDLE, DAY_MS, DemoError, set_up, stream_settings
from ops.inputs import open_inputs
from ops.producer import Producer, read_script
from ops.simulate import simulate
from pipeline.dataset import collect
from pipeline.loading import load_app
from pipeline.replay import Replay

SUNDAY_MS = 1_795_305_600_000  # 2026-11-22T00:00Z
BYTES_MAX = 12_000_000


def test_the_stream_is_two_whole_weeks_that_are_over():
    for now_ms in (SUNDAY_MS, SUNDAY_MS + DAY_MS - 1, SUNDAY_MS + DAY_MS):
        made = stream_settings(60, now_ms)
        assert made.end_ms <= now_ms < made.end_ms + 7 * DAY_MS
        assert (made.start_ms // DAY_MS) % 7 == 4  # a Monday: the epoch began on a Thursday
    assert stream_settings(60, SUNDAY_MS).events == 48_000
    assert stream_settings(20, SUNDAY_MS).cards == 160


def test_what_the_bundle_holds_fits_the_app_and_the_limit():
    app = load_app(str(APP))
    plan, bundle = app.plans["payments"], read_bundle(BUNDLE)
    scorer = Scorer(bundle, None, [plan.specs[column] for column in plan.columns_of["risk"]], buckets=(1,))
    assert scorer.rung == "moe+ftrl"
    assert sum(map(len, bundle.parts.values())) < BYTES_MAX
    provenance = bundle.meta.provenance
    assert provenance["command"] in (APP.parent / "README.md").read_text()
    assert {"seed", "data_sha256", "events", "torch"} <= provenance.keys()


def test_it_finds_most_fraud_of_a_stream_it_has_never_seen(tmp_path):
    simulate(stream_settings(60, SUNDAY_MS), tmp_path)
    app = load_app(str(APP))
    task, plan = app.tasks[0], app.plans["payments"]
    inputs = open_inputs(app, [str(tmp_path / "payments.jsonl"), str(tmp_path / "frauds.jsonl")])
    with Replay(plan, inputs, Tokeniser(bytes(32))) as replay:
        data = collect(task, plan, replay)
    known = data.where((data.labels == 1) | ((data.labels == 0) & (np.arange(len(data)) % 10 == 0)))
    scores = Scorer(read_bundle(BUNDLE), None, known.specs).score(known.features).probability
    assert roc_auc(scores, known.labels) > 0.9


@pytest.fixture
def stage(tmp_path):
    made = set_up(tmp_path / "demo", seconds=5)
    yield made
    made.close()


def test_the_producer_appends_what_is_due(stage):
    producer, log = stage.producer, stage.log
    assert producer.speed == pytest.approx(14 * 86_400 / 5)
    half_ms = producer.event_ms(2.5)
    appended = dict(producer.append_until(half_ms))
    assert appended == {name: log.end(name, 0) for name in ("payments", "frauds")}
    last = log.read("payments", 0, appended["payments"] - 1, 1).values[0].as_py()
    ts = msgspec.json.decode(last)["ts"]
    assert half_ms - DAY_MS < ts <= half_ms
    producer.start()
    producer.stop()
    assert producer.is_done
    assert producer.problem is None


def test_a_record_without_time_is_due_with_its_neighbour(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'oops\n{"ts":1767571200100}\nbroken\n{"ts":1767571200050}\n{"ts":1767571200200}\n')
    script = read_script("x", file, "ts")
    assert (script.due_ms - 1767571200000).tolist() == [100, 100, 100, 100, 200]
    file.write_bytes(b"oops\n")
    with pytest.raises(ValueError, match="has no record with a time 'ts'"):
        read_script("x", file, "ts")


def test_a_log_that_refuses_is_the_producers_problem(stage):
    lines = [b'{"ts":1767571200100}\n']
    script = read_script("payments", stage.folder / "payments.jsonl", "ts")
    producer = Producer(stage.log, [type(script)("nowhere", lines, script.due_ms[:1])], 1.0, lambda: 0)
    producer.start()
    producer.wait()
    assert "there is no topic 'nowhere'" in str(producer.problem)


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DemoError, match=r"is not empty; name a new folder"):
        set_up(tmp_path, 5)


def pelton(*arguments, timeout_s=110):
    command = [sys.executable, "-c", "from ops.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_without_a_terminal_it_prints_lines_and_ends(tmp_path):
    kept = tmp_path / "kept"
    done = pelton("demo", "--seconds", 8, "--keep", kept)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    for part in ("events/s", "p99", "closed", "AUC", "card_", "What next:", "snapshots passed the gate"):
        assert part in done.stdout
    assert "problem" not in done.stdout
    for line in what_next(kept):
        said = pelton(*line.split()[1:])
        assert said.returncode == 0, f"{line}: {said.stderr}"
