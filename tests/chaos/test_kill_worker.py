"""A runner is killed again and again while payments and labels come in: every input is decided exactly once, and its
features are those of a run that nobody disturbed.
"""

import random
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from connectors.sqlite_log import SqliteLog
from ops.producer import Producer, read_script
from ops.settings import Settings
from ops.simulate import SimulationSettings, simulate
from pipeline.dead_letters import dead_topic
from pipeline.engine import Engine
from pipeline.live import create_topics, group_of
from pipeline.loading import load_app
from pipeline.manifest import decode
from pipeline.recovery import chunk_of, recover, streams_of
from pipeline.state_store import StateStore

pytestmark = pytest.mark.timeout(300)  # a dozen processes: on a busy machine their starts alone take a minute

APP = Path(__file__).parents[2] / "ops" / "demo" / "payments.py"
DECISIONS = "bank.decisions"
RUNS = 12
SEED = 5

CHILD = """
import sys
from pathlib import Path
from connectors.sqlite_log import SqliteLog
from ops.runner import AppRunner
from ops.settings import Settings
from pipeline.loading import load_app

class KeepsManifests(SqliteLog):
    def forget_manifests(self, *which):
        return 0  # the test follows all of them afterwards

folder = Path(sys.argv[1])
app = load_app(sys.argv[2])
settings = Settings(folder, folder / "log.db")
tokeniser, sealer = settings.secrets(app)
with KeepsManifests(settings.log, sealer) as log:
    with AppRunner(app, log, None, folder, tokeniser, sealer, learn=False, snapshot_every_ms=100) as runner:
        print("ready", flush=True)
        runner.run(until_idle=len(sys.argv) > 3)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Run, kill and run again until everything is decided; return app, settings and how many kills hit."""
    folder = tmp_path_factory.mktemp("killed")
    stream = SimulationSettings(
        days=14, seed=SEED, events_per_day=2_200, cards=300, terminals=80, malformed_share=0.002, stale_share=0.002
    )
    made = simulate(stream, folder)
    app, settings = load_app(str(APP)), Settings(folder, folder / "log.db")
    _, sealer = settings.secrets(app, make=True)
    payments = read_script("payments", made.payments_path, "ts")
    labels = read_script("frauds", made.labels_path, "reported_at")
    rng = random.Random(SEED)
    with SqliteLog(settings.log, sealer) as log:
        create_topics(app, log)
        producer = Producer(log, [payments, labels], speed=1.0, now_ms=lambda: stream.end_ms)
        cuts = np.linspace(0, len(payments.lines) - 1, RUNS + 1).astype(int)
        kills = sum(
            run_and_kill(folder, producer, payments.due_ms[first:end], rng, starting=number % 5 == 4)
            for number, (first, end) in enumerate(pairwise(cuts))
        )
        producer.append_until(int(labels.due_ms[-1]))
    with start(folder, "until-idle") as last:
        assert last.wait(60) == 0
    return app, settings, kills


def start(folder, *extra):
    return subprocess.Popen([sys.executable, "-c", CHILD, str(folder), str(APP), *extra], stdout=subprocess.PIPE)


def run_and_kill(folder, producer, due_ms, rng, starting):
    """Append records one by one or in small batches while the runner decides them, and kill it somewhere between."""
    kill_at = 0 if starting else rng.randrange(len(due_ms))
    at, hit = 0, False
    with start(folder) as runner:
        if not starting:  # most are killed while they decide, some while they start and recover
            assert runner.stdout.readline() == b"ready\n"
        while at < len(due_ms):
            at += rng.choice((1, 2, 5, 50, 200, 500))
            decided = producer.log.end(DECISIONS, 0)
            producer.append_until(int(due_ms[min(at, len(due_ms)) - 1]))
            if hit:
                continue
            if at > kill_at:
                try:
                    runner.wait(timeout=rng.uniform(0, 1.0 if starting else 0.01))
                except subprocess.TimeoutExpired:
                    runner.send_signal(signal.SIGKILL)
                    hit = True
            else:
                producer.log.wait({(DECISIONS, 0): decided}, 1.0)
    return hit


@pytest.fixture(scope="module")
def told(killed):
    """The decisions, dead letters and manifests that are in the log in the end."""
    app, settings, _ = killed
    _, sealer = settings.secrets(app)
    with SqliteLog(settings.log, sealer) as log:
        rows = [each for _, each in log.read_rows(DECISIONS, 0, 0, 1 << 30)]
        dead = log.end(dead_topic(app.name), 0)
        manifests = [decode(payload) for _, payload in log.manifests(group_of(app.name, "payments"), 0, 0)]
        ends = {name: log.end(name, 0) for name in ("payments", "frauds")}
    return pa.Table.from_batches(rows), dead, manifests, ends


def test_kills_hit_work_in_progress(killed, told):
    app, settings, kills = killed
    assert kills >= 10
    assert len(told[2]) > 5 * RUNS
    snapshots = StateStore(settings.state / group_of(app.name, "payments") / "0")
    assert snapshots.oldest_commit() > 0


def test_every_input_is_taken_and_decided_exactly_once(told):
    decisions, dead, manifests, ends = told
    assert ends["payments"] > 30_000
    for name, end in ends.items():  # each commit begins where the one before ended
        assert [0, *(each.inputs[name][1] for each in manifests)] == [
            *(each.inputs[name][0] for each in manifests),
            end,
        ]
    ledgers = manifests[-1].ledgers
    for name, end in ends.items():
        counts = dict(ledgers[name])
        assert counts.pop("taken") == end == sum(counts.values())
    assert len(decisions) == ledgers["payments"]["applied"] == manifests[-1].decided["risk"]
    assert len(set(decisions["event_id"].to_pylist())) == len(decisions)
    assert (np.diff(decisions["source_offset"].to_numpy()) > 0).all()
    assert dead == sum(ledgers[name][kind] for name in ledgers for kind in ("invalid", "late", "future")) > 0


def test_features_are_those_of_an_undisturbed_run(killed, told):
    app, settings, _ = killed
    decisions, _, manifests, _ = told
    plan = app.plans["payments"]
    tokeniser, sealer = settings.secrets(app)
    engine = Engine(plan, tokeniser)
    with SqliteLog(settings.log, sealer) as log:
        matrix = np.concatenate([follow(engine, plan, log, each) for each in manifests])
    names = decisions.schema.names[-matrix.shape[1] :]
    served = np.column_stack([decisions[name].to_numpy(zero_copy_only=False) for name in names])
    np.testing.assert_array_equal(served, matrix[:, list(plan.columns_of["risk"])])


def test_state_from_a_snapshot_is_the_undisturbed_one(killed, told, tmp_path):
    app, settings, _ = killed
    plan, group = app.plans["payments"], group_of(app.name, "payments")
    tokeniser, sealer = settings.secrets(app)
    with SqliteLog(settings.log, sealer) as log:
        quick = recover(plan, log, group, 0, StateStore(settings.state / group / "0"), tokeniser)
        slow = recover(plan, log, group, 0, StateStore(tmp_path), tokeniser)
        again = [decode(payload) for _, payload in log.manifests(group, 0, 0)][-20:]
        features = [[follow(engine, plan, log, each) for each in again] for engine in (quick.engine, slow.engine)]
    assert quick.replayed < slow.replayed == sum(counts["taken"] for counts in told[2][-1].ledgers.values())
    for restored, replayed in zip(*features, strict=True):
        np.testing.assert_array_equal(restored, replayed)


def follow(engine, plan, log, manifest):
    """Apply what a commit took, and return its features."""
    chunks = {}
    for name, stream in streams_of(plan).items():
        first, end = manifest.inputs[name]
        if end > first:
            records = log.read(name, 0, first, end - first)
            assert len(records) == end - first
            chunks[name] = chunk_of(records, stream.schema)
    return engine.process(chunks).matrix
