"""What a process tells Prometheus: every event is counted once, and whoever is stuck says so."""

import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from connectors.memory_log import MemoryLog
from models.bundle import read_bundle
from models.scorer import FTRL, Scorer, read_specs
from ops.metrics.families import Histogram as Batched
from ops.metrics.metrics import STALLED_S, Metrics
from ops.metrics.server import MetricsServer, MetricsServerError
from ops.runner import AppRunner
from pipeline.decisions import Served
from pipeline.loading import load_app
from pipeline.manifest import decode

APP = """
from pipeline import App, Fixed, Rule, Stream, Task
payments = Stream("payments", id="id", time="ts", lateness="5s", fields={"shop": "string", "amount": "money"})
fraud = Task(
    "fraud", on=payments, model=None, threshold=Fixed(0.5, 0.9), rules=[Rule("large", "spent > 90", "block")],
    features={"spent": payments.by("shop").last("1h").sum("amount")},
)
app = App("bank", tasks=[fraud])
"""
START_MS = 1_767_571_200_000
DEMO = Path(__file__).parents[2] / "ops" / "demo" / "bundle"


@pytest.fixture
def app(tmp_path):
    (tmp_path / "bank.py").write_text(APP)
    return load_app(str(tmp_path / "bank.py"))


@pytest.fixture
def seen(app, tmp_path):
    """A log of which everything is decided, its steps, and the metrics of that."""
    log, metrics, steps = MemoryLog(), Metrics(app), []
    with AppRunner(app, log, None, tmp_path, on_step=steps.append, metrics=metrics) as runner:
        for first in (0, 40):
            pay(log, first, 40)
            log.append("payments", 0, [b"broken", *lines(first, 1)], START_MS)  # invalid, and one that came before
            runner.run(until_idle=True)
        yield log, metrics, runner, steps


def lines(first, count):
    line = b'{"id":"p%d","ts":%d,"shop":"s%d","amount":9}'
    return [line % (i, START_MS + i, i % 7) for i in range(first, first + count)]


def pay(log, first, count):
    log.append("payments", 0, lines(first, count), START_MS + 1_000)


def samples(metrics):
    """All samples by name and labels, less the app's."""
    with MetricsServer(metrics, 0) as server:
        text = get(server, "/metrics")[1]
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(value for name, value in sorted(sample.labels.items()) if name != "app")
            assert (sample.name, labels) not in found
            found[sample.name, labels] = sample.value
    return found


def get(server, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_batch_is_counted_like_each_of_its_values():
    bounds, registry = (0.001, 0.01, 0.5), CollectorRegistry()
    twin = Histogram("x_seconds", "x", buckets=bounds, registry=registry)
    batched = Batched("x_seconds", "x", (), bounds)
    values = np.concatenate([np.random.default_rng(3).exponential(0.05, 500), bounds, [0.0, 9.0]])
    for value in values:
        twin.observe(value)
    batched.add_many((), values)
    for _ in range(7):
        twin.observe(0.2)
    batched.add((), 0.2, times=7)
    theirs = [sample for family in registry.collect() for sample in family.samples if "created" not in sample.name]
    ours = batched.family().samples
    assert [(each.name, each.labels) for each in ours] == [(each.name, each.labels) for each in theirs]
    np.testing.assert_allclose([each.value for each in ours], [each.value for each in theirs])


def test_counters_say_what_the_manifests_say(seen):
    log, metrics, _, steps = seen
    found = samples(metrics)
    ledger = decode(log.manifest("bank.payments", 0)[1]).ledgers["payments"]
    place = ("0", "payments", "payments")  # partition, stage, stream
    assert found["pelton_records_taken_total", place] == ledger["taken"] == 84
    fates = {fate: found["pelton_records_total", (fate, *place)] for fate in ledger if fate != "taken"}
    assert fates == {fate: count for fate, count in ledger.items() if fate != "taken"}
    assert sum(fates.values()) == 84
    assert found["pelton_dead_letters_total", ("0", "payments")] == sum(step.dead for step in steps) == 2
    decided = {name: found["pelton_decisions_total", (name, "fraud")] for name in ("allow", "review", "block")}
    assert sum(decided.values()) == fates["applied"] == 80
    assert decided["block"] > 0
    assert found["pelton_commits_total", ("0", "payments")] == len(steps)


def test_latency_counts_events_and_a_part_of_a_commit_weighs_its_events(seen):
    _, metrics, _, steps = seen
    found = samples(metrics)
    assert found["pelton_decision_latency_seconds_count", ("payments",)] == 80
    waited_s = sum(float((step.committed_ms - step.append_ms).sum()) / 1000 for step in steps)
    assert found["pelton_decision_latency_seconds_sum", ("payments",)] == pytest.approx(waited_s)
    for part in steps[0].seconds:
        assert found["pelton_step_seconds_count", ("payments", part)] == 80
        spent_s = sum(step.seconds[part] * len(step.append_ms) for step in steps)
        assert found["pelton_step_seconds_sum", ("payments", part)] == pytest.approx(spent_s)
        busy_s = sum(step.seconds[part] for step in steps)
        assert found["pelton_step_busy_seconds_total", ("payments", part)] == pytest.approx(busy_s)


def test_state_and_lag_are_as_of_now(seen):
    log, metrics, runner, _ = seen
    windows = ("0", "payments", "own.payments.shop.0")
    found = samples(metrics)
    assert found["pelton_state_keys", windows] == 7
    assert found["pelton_state_rows", windows] == 80
    assert found["pelton_state_bytes", windows] > 80 * 8
    assert found["pelton_lag_records", ("0", "payments", "payments")] == 0
    assert found["pelton_lag_seconds", ("0", "payments")] == 0
    pay(log, 80, 5)
    found = samples(metrics)
    assert found["pelton_lag_records", ("0", "payments", "payments")] == 5
    assert found["pelton_lag_seconds", ("0", "payments")] > 0
    metrics.revoked(runner.workers[0])
    found = samples(metrics)
    assert ("pelton_lag_records", ("0", "payments", "payments")) not in found
    assert ("pelton_state_keys", windows) not in found
    assert found["pelton_records_taken_total", ("0", "payments", "payments")] == 84  # counters never fall


def test_a_worker_that_goes_on_counts_only_what_it_took_itself(app, seen, tmp_path):
    log = seen[0]
    metrics = Metrics(app)
    with AppRunner(app, log, None, tmp_path, metrics=metrics) as runner:
        pay(log, 80, 3)
        runner.run(until_idle=True)
        found = samples(metrics)
    assert found["pelton_records_taken_total", ("0", "payments", "payments")] == 3
    assert found["pelton_recovery_seconds_count", ("assigned", "payments")] == 1
    assert found["pelton_recovery_replayed_records_total", ("payments",)] == runner.workers[0].replayed


def test_what_happens_to_a_partition_is_counted(app, seen):
    metrics, worker = seen[1], seen[2].workers[0]
    metrics.rebalanced()
    metrics.assigned(worker, 0.2)  # again: a commit failed
    worker.save()
    metrics.beat(worker)
    worker.snapshots.problem = "the disk is full"
    metrics.beat(worker)
    metrics.beat(worker)  # the same is not told twice
    found = samples(metrics)
    assert found["pelton_rebalances_total", ()] == 1
    assert found["pelton_recovery_seconds_sum", ("aborted", "payments")] == 0.2
    assert found["pelton_snapshots_total", ("written", "0", "payments")] == 1
    assert found["pelton_snapshots_total", ("failed", "0", "payments")] == 1
    assert found["pelton_snapshot_size_bytes", ("0", "payments")] > 0


def test_other_models_replace_the_ones_before(app):
    now_s = [1_000.0]
    metrics = Metrics(app, clock_s=lambda: now_s[0])
    metrics.serving("fraud", Served(None, "aaaa", ""))
    now_s[0] = 1_060.0
    metrics.serving("fraud", Served(None, "aaaa", "bbbb"))
    metrics.serving("fraud", Served(None, "aaaa", "bbbb"))  # the same again is no change
    found = samples(metrics)
    serving = {labels: value for (name, labels), value in found.items() if name == "pelton_serving_timestamp_seconds"}
    assert serving == {("aaaa", "rules", "bbbb", "fraud"): 1_060}
    assert found["pelton_serving_info", ("aaaa", "rules", "bbbb", "fraud")] == 1
    assert found["pelton_model_changes_total", ("fraud",)] == 1


@pytest.fixture(scope="module")
def scorer():
    """The demo's models, warmed up for batches of 64."""
    bundle = read_bundle(DEMO)
    return Scorer(bundle, None, read_specs(bundle), buckets=(64,))


def test_experts_are_counted_for_served_events_alone(app, scorer):
    metrics, chance = Metrics(app), np.random.default_rng(5)
    metrics.serving("fraud", Served(scorer, "aaaa"))
    scorer.score(chance.normal(size=(100, len(scorer.specs))))
    scorer.reasons(chance.normal(size=(2, len(scorer.specs))))  # asks the network for many rows that nobody served
    found = samples(metrics)
    layer = [found["pelton_expert_visits_total", ("aaaa", str(expert), "2", "fraud")] for expert in range(16)]
    assert sum(layer) == 100 * 2  # in the last layer the summary token alone visits two experts
    assert ("pelton_expert_dead", ("aaaa", "2", "fraud")) not in found  # too few to tell
    scorer.score(chance.normal(size=(1000, len(scorer.specs))))
    found = samples(metrics)
    layer = np.array([found["pelton_expert_visits_total", ("aaaa", str(expert), "2", "fraud")] for expert in range(16)])
    assert layer.sum() == 1100 * 2
    of = ("aaaa", "2", "fraud")
    assert found["pelton_expert_dead", of] == (layer < 0.01 * layer.mean()).sum()
    assert found["pelton_expert_overflow", of] == pytest.approx(layer.max() / layer.mean() - 1)
    assert 0 < found["pelton_expert_entropy", of] < 1
    assert found["pelton_network_provider_info", ("cpu", "fraud")] == 1
    metrics.serving("fraud", Served(scorer.with_snapshot(read_bundle(DEMO).part(FTRL)), "aaaa", "bbbb"))
    assert samples(metrics)["pelton_expert_dead", of] == found["pelton_expert_dead", of]  # a new learner, the same MoE


def test_health_says_who_is_stuck(app, tmp_path):
    now_s = [0.0]
    metrics, log = Metrics(app, timer_s=lambda: now_s[0]), MemoryLog()
    with MetricsServer(metrics, 0) as server:
        assert get(server, "/healthz") == (503, "starting: the state is taken from the log\n")
        with AppRunner(app, log, None, tmp_path, metrics=metrics) as runner:
            assert get(server, "/healthz") == (200, "ok\n")
            now_s[0] = STALLED_S + 5
            metrics.assigned(runner.workers[0], 0.1)  # a commit failed: that is no sign of life
            status, words = get(server, "/healthz")
            assert status == 503
            assert "payments partition 0 has neither committed nor looked for news for 35 s" in words
            runner.run(until_idle=True)  # looks, and finds nothing
            assert get(server, "/healthz") == (200, "ok\n")
            metrics.stopped("Kafka at kafka:9092 is away since 12 s; it is tried again")
            metrics.ask(problems=lambda: ["no snapshot could be written"])
            answer = (
                "Kafka at kafka:9092 is away since 12 s; it is tried again\nproblem: no snapshot could be written\n"
            )
            assert get(server, "/healthz") == (503, answer)
            pay(log, 0, 1)
            runner.run(until_idle=True)
            assert get(server, "/healthz")[0] == 200
            now_s[0] += 2 * STALLED_S
            metrics.revoked(runner.workers[0])  # who owns nothing has nothing to do
            assert get(server, "/healthz")[0] == 200
        assert get(server, "/favicon.ico") == (404, "here are /metrics and /healthz\n")


def test_a_port_in_use_is_told(app):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MetricsServerError, match=rf"127\.0\.0\.1:{port}: Address already in use; choose another"):
            MetricsServer(Metrics(app), port)


def test_every_metric_is_in_the_readme(seen, scorer):
    seen[1].serving("fraud", Served(scorer, "aaaa"))
    scorer.score(np.zeros((1000, len(scorer.specs))))
    readme = (Path(__file__).parents[2] / "ops" / "deploy" / "README.md").read_text()
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name, _ in samples(seen[1]) if name.startswith("pelton_")}
    assert len(names) >= 20
    assert [name for name in sorted(names) if f"`{name}`" not in readme] == []
