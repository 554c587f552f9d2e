"""A burst makes a running app fall back to the small network and come back, and a kill in the middle loses nothing."""

import itertools
import logging
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from connectors.sqlite_log import SqliteLog
from models.bundle import BundleMeta, read_bundle, write_bundle
from models.calibration import Blend, Line
from models.ftrl import Ftrl
from models.registry import Registry
from models.scorer import DISTILLED, DISTILLED_BLEND, Scorer, bundle_parts
from ops.metrics.metrics import Metrics
from ops.runner import AppRunner
from ops.views.live_app import AppFigures
from ops.views.live_words import rungs
from pipeline.as_served import commits_as_served
from pipeline.decisions import Served
from pipeline.live import create_topics
from pipeline.loading import load_app
from pipeline.manifest import decode
from pipeline.stages import alone
from pipeline.verify import verify

pytestmark = pytest.mark.timeout(180)

APP = """
from pipeline import App, Fixed, Stream, Task
payments = Stream("payments", id="id", time="ts", lateness="5s", fields={{"shop": "string", "amount": "money"}})
frauds = Stream("frauds", id="id", time="known", fields={{"is_fraud": "bool"}})
shop = payments.by("shop")
fraud = Task(
    "fraud", on=payments, label=frauds.is_fraud, threshold=Fixed(0.9, 0.95), budget_ms={budget_ms},
    features={{
        "amount": payments.amount, "spent": shop.last("1h").sum("amount"), "count": shop.last("1h").count(),
        **shop.recent(3, "amount"),
    }},
)
app = App("bank", tasks=[fraud])
"""
DECISIONS, GROUP = "bank.decisions", "bank.payments"
START_MS = 1_767_571_200_000
LONG_AGO_MS = START_MS + 1_000_000
BURST = 4000
LARGE, SMALL = "moe+ftrl", "distilled+ftrl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an app, a bundle of an untrained network and its student, and a registry where it serves."""
    pytest.importorskip("torch")
    import torch

    from models.export import export
    from models.export_student import export_event_student
    from models.moe.network import event_network
    from models.moe.settings import MoESettings
    from models.moe.student import EventStudent

    out = tmp_path_factory.mktemp("fallback")
    (out / "plain.py").write_text(APP.format(budget_ms=None))
    plan = load_app(str(out / "plain.py")).plans["payments"]
    specs = tuple(plan.specs[column] for column in plan.columns_of["fraud"])
    rows = np.random.default_rng(0).normal(size=(100, len(specs)))
    torch.manual_seed(0)
    export(event_network(specs, MoESettings()), out / "moe.onnx", rows)
    lines = {"X": Line(-3.0, (0.1,)), "ftrl": Line(-3.0, (0.1,)), "X+ftrl": Line(-3.0, (0.1, 0.1))}
    blends = {name: Blend((name, "ftrl"), {key.replace("X", name): line for key, line in lines.items()})
              for name in ("moe", "distilled")}  # fmt: skip
    parts = bundle_parts(
        specs, blends["moe"], np.zeros(len(specs)), (out / "moe.onnx").read_bytes(), Ftrl(specs).snapshot()
    )
    parts |= {
        DISTILLED: export_event_student(EventStudent(specs), rows).file,
        DISTILLED_BLEND: blends["distilled"].to_json(),
    }
    write_bundle(out / "bundle", parts, BundleMeta("fraud", "fraud", 0))
    scorer = Scorer(read_bundle(out / "bundle"), None, specs)
    scorer.time(time.perf_counter)
    whole_s, small_s = scorer.cost.seconds(BURST), scorer.fallback.cost.seconds(BURST)
    assert whole_s > 4 * small_s
    (out / "bank.py").write_text(APP.format(budget_ms=round(1000 * max((whole_s * small_s) ** 0.5, small_s + 0.15))))
    return out


@pytest.fixture
def app(folder):
    return load_app(str(folder / "bank.py"))


@pytest.fixture
def registry(folder, tmp_path):
    opened = Registry.open(None, tmp_path / "registry")
    opened.promote("fraud", opened.add_bundle("fraud", folder / "bundle", "test", 0), "test", 0)
    yield opened
    opened.close()


def pay(log, first, count, now_ms=None):
    lines = [
        b'{"id":"p%d","ts":%d,"shop":"s%d","amount":%d}' % (i, START_MS + i, i % 7, i % 5)
        for i in range(first, first + count)
    ]
    log.append("payments", 0, lines, time.time_ns() // 1_000_000 if now_ms is None else now_ms)


def decided(log):
    rows = [rows for _, rows in log.read_rows(DECISIONS, 0, 0, 1 << 30)]
    return pa.Table.from_batches(rows).select(["event_id", "rung", "bundle", "score", "moe_logit"]).to_pylist()


def agree_with_manifests(log):
    """Check that the rung of each decision is the one of the commit that it was made in."""
    at, rows = 0, decided(log)
    for _, payload in log.manifests(GROUP, 0, 0):
        manifest = decode(payload)
        first, end = manifest.inputs["payments"]
        assert {row["rung"] for row in rows[at : at + end - first]} <= {manifest.rungs["fraud"]}
        at += end - first
    assert at == len(rows)


def holds(app, log):
    """Check that what was served is what the oracle computes."""
    stage = alone(app.plans["payments"], GROUP)
    found = verify(stage, commits_as_served(app, stage, log, 0), sample=300)
    assert found.holds
    assert found.values_checked > 1000


def test_a_burst_is_decided_by_the_student_and_then_the_network_decides_again(app, registry, tmp_path, caplog):
    metrics, figures, seen = Metrics(app), AppFigures(app), threading.Condition()
    rows = []

    def on_step(step):
        figures.add(step, 0.0)
        with seen:
            rows.extend(step.decisions["fraud"].column("rung").to_pylist())
            seen.notify_all()

    def wait_for(count):
        with seen:
            assert seen.wait_for(lambda: len(rows) >= count, timeout=120)

    with SqliteLog(tmp_path / "log.db") as log:
        create_topics(app, log)
        runner = AppRunner(app, log, registry, tmp_path, on_step=on_step, learn=False, metrics=metrics)
        with runner, caplog.at_level(logging.WARNING, "pelton.rungs"):
            thread = threading.Thread(target=runner.run)
            thread.start()
            try:
                count = 0
                for _ in range(20):  # one after another: there is all the time in the world
                    pay(log, count, 1)
                    count += 1
                    wait_for(count)
                before = len(rows)
                for _ in range(3):
                    pay(log, count, BURST)
                    count += BURST
                wait_for(count)
                deadline_s = time.monotonic() + 60
                while rows[-1] != LARGE and time.monotonic() < deadline_s:
                    pay(log, count, 1)
                    count += 1
                    wait_for(count)
            finally:
                runner.stop()
                thread.join()
        told = decided(log)
        assert [row["event_id"] for row in told] == [f"p{i}" for i in range(count)]
        assert [row["rung"] for row in told] == rows
        assert LARGE in rows[:before]
        assert SMALL in rows[before:]
        assert rows[-1] == LARGE
        assert {row["bundle"] for row in told} == {registry.serving("fraud").bundle}
        assert all((row["moe_logit"] is None) == (row["rung"] == "rules") for row in told)
        agree_with_manifests(log)
        holds(app, log)
    lines = [each.getMessage() for each in caplog.records]
    assert any(f"{SMALL} decides instead of {LARGE}" in line or "rules decides" in line for line in lines)
    assert f"{LARGE} decides instead of" in lines[-1]
    assert len(lines) == sum(a != b for a, b in itertools.pairwise(rows))
    by_rung = {rung: rows.count(rung) for rung in set(rows)}
    counted = {
        sample.labels["rung"]: sample.value for family in metrics.collect() for sample in family.samples
        if sample.name == "pelton_rung_decisions_total"
    }  # fmt: skip
    assert counted == by_rung
    picture = figures.pictures(1.0, {})[0]
    assert picture.rungs == by_rung
    assert rungs(picture).startswith(f"{LARGE} (")


def test_rungs_are_replayed_as_the_decisions_name_them(app, folder, registry, tmp_path):
    bundle = read_bundle(folder / "bundle")
    plan = app.plans["payments"]
    scorer = Scorer(bundle, None, [plan.specs[column] for column in plan.columns_of["fraud"]])
    with SqliteLog(tmp_path / "log.db") as log:
        create_topics(app, log)
        pay(log, 0, BURST, LONG_AGO_MS)  # nothing can be in time: rules alone
        pay(log, BURST, 1, LONG_AGO_MS)
        with AppRunner(app, log, registry, tmp_path, learn=False) as runner:
            runner.run(until_idle=True)
        rows = pa.Table.from_batches([rows for _, rows in log.read_rows(DECISIONS, 0, 0, 1 << 30)])
        assert set(rows["rung"].to_pylist()) == {"rules"}
        assert rows["score"].null_count == len(rows)
        agree_with_manifests(log)
        holds(app, log)
    by_name = {each.rung: each for each in Served(scorer, bundle.id).rungs()}
    assert list(by_name) == [LARGE, SMALL, "rules"]
    features = np.random.default_rng(1).normal(size=(5, len(scorer.specs)))
    again = Scorer(bundle, None, scorer.specs)
    for rung, its in ((LARGE, again), (SMALL, again.fallback)):
        np.testing.assert_array_equal(by_name[rung].scorer.score(features).probability, its.score(features).probability)


def test_a_task_without_a_budget_never_falls_back(folder, registry, tmp_path):
    app = load_app(str(folder / "plain.py"))
    with SqliteLog(tmp_path / "log.db") as log:
        create_topics(app, log)
        pay(log, 0, 500, LONG_AGO_MS)
        with AppRunner(app, log, registry, tmp_path, learn=False) as runner:
            runner.run(until_idle=True)
        assert {row["rung"] for row in decided(log)} == {LARGE}


CHILD = """
import sys
from pathlib import Path
from connectors.sqlite_log import SqliteLog
from models.registry import Registry
from ops.runner import AppRunner
from pipeline.loading import load_app

class KeepsManifests(SqliteLog):
    def forget_manifests(self, *which):
        return 0  # the test follows all of them afterwards

folder = Path(sys.argv[1])
app, registry = load_app(sys.argv[2]), Registry.open(None, folder / "registry")
with KeepsManifests(folder / "log.db") as log:
    with AppRunner(app, log, registry, folder, learn=False, snapshot_every_ms=100) as runner:
        print("ready", flush=True)
        runner.run(until_idle=len(sys.argv) > 3)
"""


def start(app_file, folder, *more):
    command = [sys.executable, "-c", CHILD, str(folder), str(app_file), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_while_it_falls_back_every_event_is_decided_once(app, folder, registry, tmp_path):
    with SqliteLog(tmp_path / "log.db") as log:
        create_topics(app, log)
        count = 0
        for _ in range(3):
            with start(folder / "bank.py", tmp_path) as child:
                try:
                    assert child.stdout.readline() == "ready\n"
                    for more in (1, 1, 2 * BURST, BURST):
                        pay(log, count, more)
                        count += more
                        log.wait({(DECISIONS, 0): log.end(DECISIONS, 0)}, 10.0)
                finally:
                    child.send_signal(signal.SIGKILL)
        with start(folder / "bank.py", tmp_path, "until-idle") as last:
            assert last.wait(120) == 0
        told = decided(log)
        assert [row["event_id"] for row in told] == [f"p{i}" for i in range(count)]
        assert len({row["rung"] for row in told}) > 1
        agree_with_manifests(log)
        holds(app, log)
