"""A runner decides what is in the log, follows the registry between two batches, and tells what goes wrong."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest

from connectors.errors import ConnectorError
from connectors.log import CommitConflictError, LogError
from connectors.memory_log import MemoryLog
from connectors.sinks import MemorySink
from connectors.sqlite_log import SqliteLog
from models.bundle import BundleMeta, write_bundle
from models.calibration import Blend, Line
from models.ftrl import Ftrl, FtrlSettings
from models.registry import Registry
from models.scorer import bundle_parts
from ops.runner import AppRunner
from pipeline.live import create_topics
from pipeline.loading import load_app
from pipeline.manifest import decode

APP = """
from pipeline import App, Fixed, Rule, Stream, Task
payments = Stream("payments", id="id", time="ts", lateness="5s", fields={"shop": "string", "amount": "money"})
frauds = Stream("frauds", id="id", time="known", fields={"is_fraud": "bool"})
fraud = Task(
    "fraud", on=payments, label=frauds.is_fraud, model=None, threshold=Fixed(0.5, 0.9), rules=[Rule("large", "spent > 500", "block")],
    features={"amount": payments.amount, "spent": payments.by("shop").last("1h").sum("amount")},
)
app = App("bank", tasks=[fraud])
"""  # noqa: E501
DECISIONS = "bank.decisions"
GROUP = "bank.payments"
START_MS = 1_767_571_200_000
PROMOTE = """
import sys
from pathlib import Path
from models.registry import Registry
getattr(Registry.open(None, Path(sys.argv[1])), sys.argv[2])("fraud", *sys.argv[3:], now_ms=1)
"""


@pytest.fixture
def app(tmp_path):
    file = tmp_path / "bank.py"
    file.write_text(APP)
    return load_app(str(file))


@pytest.fixture
def log(app, tmp_path):
    with SqliteLog(tmp_path / "log.db") as opened:
        create_topics(app, opened)
        yield opened


@pytest.fixture
def registry(app, tmp_path):
    """A registry with two bundles, of which the first serves; ids by name."""
    opened = Registry.open(None, tmp_path / "registry")
    plan = app.plans["payments"]
    specs = tuple(plan.specs[column] for column in plan.columns_of["fraud"])
    opened.ids = {}
    for name, intercept in (("first", -2.0), ("second", -1.0)):
        learner = Ftrl(specs, FtrlSettings(moe=False))
        parts = bundle_parts(
            specs, Blend(("ftrl",), {"ftrl": Line(intercept, (1.0,))}), np.zeros(2), None, learner.snapshot()
        )
        write_bundle(tmp_path / name, parts, BundleMeta(name, "fraud", 0))
        opened.ids[name] = opened.add_bundle("fraud", tmp_path / name, "test", 0)
    opened.promote("fraud", opened.ids["first"], "test", 0)
    yield opened
    opened.close()


def pay(log, first, count):
    lines = [
        b'{"id":"p%d","ts":%d,"shop":"s%d","amount":%d}' % (i, START_MS + i, i % 7, i % 5)
        for i in range(first, first + count)
    ]
    log.append("payments", 0, lines, START_MS + 1_000_000)


def decided(log):
    rows = [rows for _, rows in log.read_rows(DECISIONS, 0, 0, 1 << 30)]
    return pa.Table.from_batches(rows).to_pylist() if rows else []


@contextmanager
def running(runner):
    """Run in a thread until the block ends."""
    with runner:
        thread = threading.Thread(target=runner.run)
        thread.start()
        try:
            yield
        finally:
            runner.stop()
            thread.join()


def test_everything_in_the_log_is_decided_once(app, log, tmp_path):
    steps = []
    pay(log, 0, 1000)
    with AppRunner(app, log, None, tmp_path, on_step=steps.append) as runner:
        runner.run(until_idle=True)
    pay(log, 1000, 10)
    with AppRunner(app, log, None, tmp_path) as runner:
        assert runner.workers[0].replayed == 0  # the snapshot of the first run holds all
        runner.run(until_idle=True)
    assert [row["event_id"] for row in decided(log)] == [f"p{i}" for i in range(1010)]
    assert sum(len(step.append_ms) for step in steps) == 1000
    assert runner.problems == []


def test_a_sink_goes_on_where_it_ended(app, log, tmp_path):
    first, second = MemorySink(), MemorySink()
    for sink, start in ((first, 0), (second, 100)):
        pay(log, start, 100)
        with AppRunner(app, log, None, tmp_path, sinks={"x": sink}) as runner:
            runner.run(until_idle=True)
    ids = [[each for rows in sink.batches for each in rows.column("event_id").to_pylist()] for sink in (first, second)]
    assert ids == [[f"p{i}" for i in range(100)], [f"p{i}" for i in range(100, 200)]]
    assert first.closed
    assert second.closed


class FullSink(MemorySink):
    """A sink whose target is full."""

    def write(self, rows):
        raise ConnectorError("output x.jsonl: no space left")


def test_a_broken_sink_stops_no_decision_and_is_told(app, log, tmp_path):
    pay(log, 0, 100)
    with AppRunner(app, log, None, tmp_path, sinks={"x": FullSink()}) as runner:
        runner.run(until_idle=True)
    assert len(decided(log)) == 100
    assert runner.problems == ["output x: output x.jsonl: no space left; decisions from 0 on are in the log only"]


def test_two_runners_of_one_app_do_not_decide_twice(app, log, tmp_path):
    with AppRunner(app, log, None, tmp_path) as one, AppRunner(app, log, None, tmp_path) as other:
        pay(log, 0, 10)
        one.run(until_idle=True)
        with pytest.raises(CommitConflictError, match="another process seems to run the same app"):
            other.run(until_idle=True)
    assert len(decided(log)) == 10


def fill(log, runner):
    for first in range(2_000, 100_000, 1_000):
        runner.run(until_idle=True)
        pay(log, first, 1_000)


def test_a_full_disk_ends_the_run_and_loses_nothing(app, tmp_path):
    with SqliteLog(tmp_path / "log.db", bytes_max=400_000) as small:
        create_topics(app, small)
        pay(small, 0, 2_000)
        with AppRunner(app, small, None, tmp_path) as runner, pytest.raises(LogError, match="full"):
            fill(small, runner)
        kept = small.end("payments", 0)
    with SqliteLog(tmp_path / "log.db") as large:
        with AppRunner(app, large, None, tmp_path) as runner:
            runner.run(until_idle=True)
        assert [row["event_id"] for row in decided(large)] == [f"p{i}" for i in range(kept)]


def test_a_snapshot_that_cannot_be_written_is_told_and_not_needed(app, log, tmp_path):
    (tmp_path / "state").write_text("a file where a folder belongs")
    pay(log, 0, 100)
    with AppRunner(app, log, None, tmp_path) as runner:
        runner.run(until_idle=True)
    assert any("no last snapshot could be written" in each for each in runner.problems)
    (tmp_path / "state").unlink()
    with AppRunner(app, log, None, tmp_path) as runner:
        assert runner.workers[0].replayed == 100


def change(tmp_path, *arguments):
    subprocess.run([sys.executable, "-c", PROMOTE, str(tmp_path / "registry"), *arguments], check=True)


def decide_until(log, first, holds):
    """Let payments come until something holds; return the number of the next one."""
    while not holds():
        before = log.end(DECISIONS, 0)
        pay(log, first, 3)
        first += 3
        log.wait({(DECISIONS, 0): before}, 1.0)
    return first


def newest_manifest(log):
    return decode(log.manifest(GROUP, 0)[1])


def test_what_another_process_promotes_serves_within_two_seconds(app, log, registry, tmp_path):
    first, second = registry.ids["first"], registry.ids["second"]
    with running(AppRunner(app, log, registry, tmp_path, learn=False)):
        at = decide_until(log, 0, lambda: log.end(DECISIONS, 0) > 0)
        for arguments, expected in ((("promote", second, "test"), second), (("rollback", "test"), first)):
            change(tmp_path, *arguments)
            began_s = time.monotonic()
            at = decide_until(log, at, lambda now=expected: newest_manifest(log).bundles["fraud"] == now)
            assert time.monotonic() - began_s < 2.0
    batches = [set(rows.column("bundle").to_pylist()) for _, rows in log.read_rows(DECISIONS, 0, 0, 1 << 30)]
    assert all(len(bundles) == 1 for bundles in batches)  # a change falls between two batches
    in_turn = [next(iter(bundles)) for bundles in batches]
    assert [each for i, each in enumerate(in_turn) if i == 0 or in_turn[i - 1] != each] == [first, second, first]


def test_a_damaged_bundle_never_takes_over(app, log, registry, tmp_path):
    second = registry.ids["second"]
    runner = AppRunner(app, log, registry, tmp_path, learn=False)
    change(tmp_path, "promote", second, "test")
    damaged = [path for path in (tmp_path / "registry").rglob("ftrl.npz") if second in path.as_posix()]
    damaged[0].write_bytes(b"damaged")
    with running(runner):
        decide_until(log, 0, lambda: runner.problems != [])
        assert any("is damaged" in each for each in runner.problems)
        decide_until(log, 10_000, lambda: log.end(DECISIONS, 0) > 300)
    assert {row["bundle"] for row in decided(log)} == {registry.ids["first"]}


def test_the_learner_learns_beside_and_its_snapshots_are_followed(app, log, registry, tmp_path):
    runner = AppRunner(app, log, registry, tmp_path, publish_every=500)
    labelled = 0
    with running(runner):
        while not log.manifest(GROUP, 0) or not newest_manifest(log).snapshots["fraud"]:
            pay(log, log.end("payments", 0), 300)
            log.wait({(DECISIONS, 0): labelled}, 1.0)
            frauds = [(i, b"true" if i % 5 == 4 else b"false") for i in range(labelled, log.end(DECISIONS, 0))]
            log.append("frauds", 0, [b'{"id":"p%d","known":%d,"is_fraud":%s}' % (i, START_MS + i, is_fraud)
                                     for i, is_fraud in frauds], START_MS)  # fmt: skip
            labelled += len(frauds)
        learned = runner.learned["fraud"]
    assert learned.snapshots > 0
    assert learned.counts["joined"] > 500
    assert learned.progressive_auc > 0.9
    assert runner.problems == []


def test_it_runs_on_a_log_in_memory(app, tmp_path):
    log = MemoryLog()
    create_topics(app, log)
    pay(log, 0, 100)
    with AppRunner(app, log, None, tmp_path) as runner:
        runner.run(until_idle=True)
    assert len(decided(log)) == 100


def start(tmp_path, *arguments):
    command = [
        sys.executable,
        "-c",
        "from ops.cli import main; main()",
        "run",
        str(tmp_path / "bank.py"),
        "--data-folder",
    ]
    return subprocess.Popen(
        [*command, str(tmp_path), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_on_a_signal_and_goes_on_afterwards(app, log, tmp_path, sign):
    output = tmp_path / "decisions.jsonl"
    pay(log, 0, 50)
    with start(tmp_path, "--output", str(output)) as process:
        assert log.wait({(DECISIONS, 0): 49}, 60)
        process.send_signal(sign)
        said, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "50 = 50 applied: closed" in said
    pay(log, 50, 50)
    with start(tmp_path, "--output", str(output), "--until-idle") as process:
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "going on after commit" in errors
    assert "100 = 100 applied: closed" in said
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["event_id"] for row in rows] == [f"p{i}" for i in range(100)]


def test_what_is_old_is_removed_while_it_runs_but_nothing_that_is_still_needed(app, log, tmp_path):
    """The payments are appended in a year that is long over: all of them are old."""
    log.create_topic("payments", retention_ms=30 * 86_400_000)
    for first in range(0, 50, 10):
        pay(log, first, 10)
        with AppRunner(app, log, None, tmp_path) as runner:
            runner.run(until_idle=True)
            runner.retention.step()
    assert (log.begin("payments", 0), runner.retention.problem) == (0, None)  # its manifest is there
    log.forget_manifests(GROUP, 0, before_commit=4)  # as snapshots do with what is a thousand commits behind them
    pay(log, 50, 10)
    with start(tmp_path, "--plain") as process:
        try:
            until_s = time.monotonic() + 60
            while log.begin("payments", 0) < 30 and process.poll() is None and time.monotonic() < until_s:
                log.wait({("payments", 0): log.end("payments", 0)}, 0.2)
            assert log.wait({(DECISIONS, 0): 59}, 30)
        finally:
            process.terminate()
        assert process.wait(30) == 0, process.stderr.read()
    assert log.begin("payments", 0) == 30
    shutil.rmtree(tmp_path / "state")
    with AppRunner(app, log, None, tmp_path) as runner:
        assert runner.workers[0].replayed == 30  # what is left tells everything that a manifest does
    assert [row["event_id"] for row in decided(log)] == [f"p{i}" for i in range(60)]


def test_old_records_wait_for_the_decision(app, tmp_path):
    log = MemoryLog()
    create_topics(app, log)
    log.create_topic("payments", retention_ms=30 * 86_400_000)
    with AppRunner(app, log, None, tmp_path) as runner:
        for first in (0, 10):
            pay(log, first, 10)
            runner.run(until_idle=True)
        pay(log, 20, 10)
        log.forget_manifests(GROUP, 0, before_commit=99)
        runner.retention.step()
        assert (log.begin("payments", 0), runner.retention.removed) == (10, 10)
        runner.run(until_idle=True)
    assert len(decided(log)) == 30


def test_a_learner_that_starts_again_offers_nothing_half_learned(app, log, registry, tmp_path):
    frauds = [b'{"id":"p%d","known":%d,"is_fraud":%s}' % (i, START_MS + i, b"true" if i % 5 == 4 else b"false")
              for i in range(20_000)]  # fmt: skip
    pay(log, 0, 20_000)
    log.append("frauds", 0, frauds, START_MS)
    published = []
    for _ in range(2):
        runner = AppRunner(app, log, registry, tmp_path, publish_every=500)
        with running(runner):
            decide_until(
                log, log.end("payments", 0), lambda now=runner: now.learned["fraud"].counts.get("joined") == 20_000
            )
        published.append(runner.learned["fraud"].snapshots)
        assert registry.serving("fraud").snapshot
    assert published == [1, 0]  # one of all that there is; later none: it serves already
