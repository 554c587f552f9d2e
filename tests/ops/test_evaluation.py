"""Evaluations that could have happened: no label before its time, known victims left out, figures beside a baseline."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from connectors.files import open_files
from models.bundle import read_bundle
from models.features import FeatureSpec
from models.ftrl import Ftrl
from ops.training.baseline import boosting
from ops.training.evaluation import evaluate, evaluate_on
from ops.training.event_training import train_on
from ops.training.found import EvaluationError, EvaluationSettings
from ops.training.history import read_history
from ops.training.progressive import serve_and_learn
from ops.training.protocol import DAY_MS, Protocol, ProtocolError, known_compromised
from ops.training.training import TrainingSettings
from pipeline import App, Stream, Task
from pipeline.dataset import Dataset
from pipeline.loading import load_app

HANDBOOK = Path(__file__).parents[1] / "apps" / "handbook.py"
FIRST = datetime(2018, 4, 1, tzinfo=UTC)
FIRST_MS = round(FIRST.timestamp() * 1000)
DAYS, TERMINALS, CUSTOMERS = 60, 40, 1500
DAY_45_MS = FIRST_MS + 45 * DAY_MS


def handbook_lines(flip_from_day=None):
    """Return CSV lines in the handbook's columns: terminals are taken over for 14 days, and all they do is fraud then.

    From `flip_from_day` on, labels say the opposite.
    """
    chance = np.random.default_rng(3)
    seconds = np.sort(chance.integers(0, DAYS * 86_400, DAYS * 200))
    customers, terminals = chance.integers(0, CUSTOMERS, seconds.size), chance.integers(0, TERMINALS, seconds.size)
    usual = chance.uniform(10, 90, CUSTOMERS)
    amounts = np.round(np.abs(chance.normal(usual[customers], usual[customers] / 2)) + 0.01, 2)
    taken_over = {
        terminal: day for day, terminal in zip(range(0, DAYS, 3), chance.permutation(TERMINALS), strict=False)
    }
    day = seconds // 86_400
    start = np.array([taken_over.get(terminal, DAYS) for terminal in terminals])
    frauds = (day >= start) & (day < start + 14)
    if flip_from_day is not None:
        frauds ^= day >= flip_from_day
    yield "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD,TX_FRAUD_SCENARIO"
    for i, second in enumerate(seconds.tolist()):
        at = FIRST + timedelta(seconds=second)
        label = int(frauds[i])
        yield f"{i},{at:%Y-%m-%d %H:%M:%S},{customers[i]},{terminals[i]},{amounts[i]},{label},{2 * label}"


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    """Return a file of generated payments in the handbook's columns."""
    path = tmp_path_factory.mktemp("handbook") / "payments.csv"
    path.write_text("\n".join(handbook_lines()) + "\n")
    return path


def read(app, path):
    task = app.task()
    return read_history(app, task, {"payments": open_files([path], task.on.schema, "payments")})


@pytest.fixture(scope="module")
def history(csv):
    """Return the handbook app's history; tests must not change it."""
    return read(load_app(str(HANDBOOK)), csv)


@pytest.fixture(scope="module")
def learner_only():
    """Return the handbook's task without a network."""
    return dataclasses.replace(load_app(str(HANDBOOK)).task(), model=None)


WEEK = Protocol.after_delay(FIRST_MS + 15 * DAY_MS, FIRST_MS + 38 * DAY_MS, 7 * DAY_MS)


def test_labels_reach_no_feature_before_their_week_is_over(history, tmp_path):
    # labels of day 30 and later say the opposite; they are known from day 37 on
    (tmp_path / "payments.csv").write_text("\n".join(handbook_lines(flip_from_day=30)) + "\n")
    flipped = read(load_app(str(HANDBOOK)), tmp_path / "payments.csv")
    before = history.times_ms < FIRST_MS + 37 * DAY_MS
    np.testing.assert_array_equal(flipped.features[before], history.features[before])
    assert (flipped.labels[~before] == 1 - history.labels[~before]).all()
    changed = (flipped.features[~before] != history.features[~before]) & ~np.isnan(history.features[~before])
    names = [spec.name for spec, is_changed in zip(history.specs, changed.any(axis=0), strict=True) if is_changed]
    assert "terminal_rate_7d" in names
    assert all("fraud" in name or "rate" in name for name in names)


def delayed_by(delay):
    """Return an app whose only feature is the terminal's fraud rate of a day, known after a delay."""
    fields = {"TRANSACTION_ID": "int", "TERMINAL_ID": "int", "TX_FRAUD": "int?"}
    payments = Stream("payments", id="TRANSACTION_ID", time="TX_DATETIME", time_unit="iso", fields=fields)
    fraud = payments.label("TX_FRAUD", known_after=delay)
    rate = payments.by("TERMINAL_ID").last("2d", delay=delay).rate(fraud)
    return App("rate", [Task("risk", on=payments, features={"rate": rate}, label=fraud, model=None)])


def test_without_the_delay_scores_jump(csv, tmp_path):
    found = {}
    for delay in ("1s", "7d"):
        app = delayed_by(delay)
        protocol = Protocol(DAY_45_MS, FIRST_MS + 52 * DAY_MS, FIRST_MS + 15 * DAY_MS, FIRST_MS + 38 * DAY_MS)
        inputs = {"payments": open_files([csv], app.task().on.schema, "payments")}
        settings = EvaluationSettings(baseline=False, online=False)
        found[delay] = evaluate(app, app.task(), inputs, protocol, tmp_path / delay, None, settings).figures[0].auc
    assert found["1s"] > 0.95
    assert 0.6 < found["7d"] < 0.85


def test_an_evaluation_from_files_to_report_and_plots(csv, learner_only, tmp_path):
    app = App("handbook", [learner_only])
    inputs = {"payments": open_files([csv], learner_only.on.schema, "payments")}
    stages = []
    found = evaluate(app, learner_only, inputs, WEEK, tmp_path, progress=stages.append)
    names = [each.model for each in found.figures]
    assert names == ["blend", "blend, learning on", "learner", "learner, learning on", "gradient boosting"]
    assert all(0.6 < each.auc < 1 and 0.2 < each.average_precision < 1 for each in found.figures)
    assert all(0 <= each.calibration_error < 0.2 and 0 < each.card_precision < 1 for each in found.figures)
    ((header, rows),) = found.tables()
    assert header[0] == "model"
    assert [row[0] for row in rows] == names
    assert {len(row) for row in rows} == {len(header)}
    report = json.loads(found.report_path.read_text())
    assert report["protocol"]["test_start"] == "2018-05-16T00:00:00Z"
    assert report["figures"][0]["auc"] == found.figures[0].auc
    assert report["bundle"]["id"] == found.bundle == found.trained.bundle.id
    assert set(found.plots) == {"roc", "precision_recall", "calibration", "scores_over_time"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in found.plots.values())
    assert found.left_out > 0
    assert {each.name for each in stages} == {"replay", "learner", "scores", "gradient boosting"}
    assert found.notes == ()


def test_a_bundle_from_disk_is_judged_as_when_it_was_trained(history, learner_only, tmp_path):
    settings = EvaluationSettings(baseline=False)
    here = evaluate_on(history, learner_only, WEEK, tmp_path / "a", None, settings)
    bundle = read_bundle(here.trained.folder)
    again = evaluate_on(history, learner_only, WEEK, tmp_path / "b", bundle, settings)
    assert again.tables() == here.tables()
    assert again.trained is None


def test_a_bundle_that_learned_labels_of_the_test_is_told(history, learner_only, tmp_path):
    bundle = train_on(history, learner_only, TrainingSettings(), tmp_path / "all").bundle
    found = evaluate_on(history, learner_only, WEEK, tmp_path, bundle, EvaluationSettings(baseline=False))
    assert len(found.notes) == 1
    assert "after the test begins" in found.notes[0]


def test_a_task_without_entity_cannot_leave_victims_out(learner_only, tmp_path):
    nobody = dataclasses.replace(learner_only, entity=None)
    with pytest.raises(EvaluationError, match="task 'risk' has no entity whose victims could be left out; give"):
        evaluate(App("handbook", [nobody]), nobody, {}, WEEK, tmp_path)


def dataset(times_ms, labels, known_ms, entities):
    count = len(times_ms)
    return Dataset(
        np.arange(count, dtype=np.float64)[:, None], (FeatureSpec("x"),), np.array(labels, np.float64),
        np.array(known_ms), np.array(times_ms), np.array(entities, np.uint64), np.arange(count, dtype=np.uint64),
    )  # fmt: skip


def test_a_victim_is_left_out_from_the_day_after_its_fraud_is_known():
    # day          0    1    2    3
    # card 7       F.........k         fraud at 0.5, known at 2.0: left out from day 2 on
    # card 8       .F.........k        fraud at 0.6, known at 2.1: day 2 had begun, left out from day 3 on
    # no card      F.........k         nobody
    at = [0.5, 1.9, 2.0, 0.6, 2.5, 3.0, 0.5, 3.0]
    labels = [1, 0, 0, 1, 0, 0, 1, 0]
    known = [2.0, 9, 9, 2.1, 9, 9, 2.0, 9]
    cards = [7, 7, 7, 8, 8, 8, 0, 0]
    data = dataset([round(t * DAY_MS) for t in at], labels, [round(t * DAY_MS) for t in known], cards)
    assert known_compromised(data, 0).tolist() == [False, False, True, False, False, True, False, False]
    assert not known_compromised(data, DAY_MS).any()  # frauds before it do not count


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((10, 5, None, None), "the test is from .* to .*; swap them"),
        ((10, 20, 0, 11), "training ends after it starts, and not after the test starts"),
        ((10, 20, 10, None), "training ends after it starts, and not after the test starts"),
    ],
)
def test_days_that_do_not_fit(times, message):
    with pytest.raises(ProtocolError, match=message):
        Protocol(*(each * DAY_MS if each is not None else None for each in times))


def test_a_test_without_frauds_is_refused():
    data = dataset([0, DAY_MS], [0, 0], [DAY_MS, 2 * DAY_MS], [1, 1])
    with pytest.raises(
        ProtocolError, match=r"0 of the 1 labelled events from 1970-01-02T00:00:00Z .* give a test range"
    ):
        Protocol(DAY_MS, 2 * DAY_MS).tested(data)


def test_the_learner_predicts_with_the_labels_known_when_the_hour_began():
    chance = np.random.default_rng(0)
    hour, count = 3_600_000, 60
    times = np.sort(chance.integers(0, 20 * hour, count))
    times[10:20] = times[10:20][::-1]  # out of order: the log's high time decides
    known = times + chance.integers(0, 6 * hour, count)
    labels = np.where(chance.random(count) < 0.2, np.nan, chance.random(count) < 0.5)
    data = dataset(times, labels, known, np.ones(count))
    none = np.full(count, np.nan)
    predicted = serve_and_learn(Ftrl(data.specs), data, none)
    for i, high_ms in enumerate(np.maximum.accumulate(times)):
        slow = Ftrl(data.specs)
        for row in np.argsort(known, kind="stable"):
            if known[row] < high_ms // hour * hour:
                slow.learn(data.features[row : row + 1], labels[row : row + 1])
        assert predicted[i] == slow.predict(data.features[i : i + 1])[0]


def test_labels_known_before_a_bundle_are_not_learned_again():
    data = dataset([0, 10, 20], [1, 0, 1], [5, 15, 25], [1, 1, 1])
    learner = Ftrl(data.specs)
    serve_and_learn(learner, data, np.full(3, np.nan), since_ms=15)
    assert learner.learned == 2


def test_the_baseline_reads_categories_and_nulls():
    chance = np.random.default_rng(1)
    hashes = np.array([4_000_000_001.0, 17.0, 3_000_000_000.0, np.nan])
    picked = chance.integers(0, 4, 2000)
    features = np.column_stack([hashes[picked], chance.random(2000)])
    labels = (picked == 1).astype(np.float64)
    specs = (FeatureSpec("channel", "category"), FeatureSpec("amount"))
    unseen = np.array([[17.0, 0.5], [3_000_000_000.0, 0.5], [np.nan, 0.5], [99.0, 0.5]])
    found = boosting(features, labels, unseen, specs, seed=0)
    assert found[0] > 0.9
    assert found[1:].max() < 0.1
