"""Training end to end on a small simulated stream: what a bundle holds, what it may know, that it is reproducible."""

import dataclasses
import json

import numpy as np
import pytest

from models.bundle import read_bundle
from models.metrics import average_precision
from models.scorer import Scorer
from ops.simulate import SimulationSettings, simulate
from ops.training.event_training import train_on
from ops.training.history import as_known, read_history
from ops.training.joint_training import train_together
from ops.training.training import TrainingError, TrainingSettings
from pipeline import App, Task
from tests.ops.bank_streams import card, frauds, inputs, of_card, payments, terminal

DAY_MS = 86_400_000
START_MS = 1_767_571_200_000
UNTIL_MS = START_MS + 9 * DAY_MS

features = of_card | {
    "places_24h": card.last("24h").distinct("place"),
    "terminal_rate_3d": terminal.last("3d", delay="1d").rate(frauds.is_fraud),
}
risk = Task("risk", on=payments, features=features, label=frauds.is_fraud, entity="card")
app = App("bank", [risk])
learner_only = dataclasses.replace(risk, model=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with payments.jsonl and frauds.jsonl of 12 days."""
    out = tmp_path_factory.mktemp("stream")
    settings = SimulationSettings(
        days=12, events_per_day=1000, cards=200, terminals=40, fraud_rate=0.04, drift=False, seed=3
    )
    simulate(settings, out)
    return out


@pytest.fixture(scope="module")
def history(folder):
    """Return the replayed history; tests must not change it."""
    return read_history(app, risk, inputs(folder))


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Return a quick training until the ninth day, and the stages it told of."""
    stages = []
    settings = TrainingSettings(until_ms=UNTIL_MS, quick=True, command="pelton train bank.py", created_ms=START_MS)
    made = train_together(app, [risk], inputs(folder), settings, tmp_path_factory.mktemp("out"), stages.append)["risk"]
    return made, stages


def test_the_bundle_serves_what_was_trained(trained, history):
    made, _ = trained
    bundle = read_bundle(made.folder)
    scores = Scorer(bundle, None, history.specs).score(history.features[-500:])
    assert bundle.id == made.bundle.id
    assert scores.rung == "moe+ftrl"
    assert np.isfinite(scores.probability).all()
    assert ((scores.probability >= 0) & (scores.probability <= 1)).all()
    later = history.where((history.times_ms >= UNTIL_MS) & np.isfinite(history.labels))
    served = Scorer(bundle, None, history.specs).score(later.features).probability
    assert average_precision(served, later.labels) > 5 * later.labels.mean()


def test_provenance_says_how_to_make_it_again(trained):
    made, _ = trained
    told = made.bundle.meta.provenance
    assert told["command"] == "pelton train bank.py"
    assert (told["seed"], told["until_ms"], told["events"], told["positives"]) == (
        0,
        UNTIL_MS,
        made.events,
        made.positives,
    )
    assert told["labels_known_until_ms"] < UNTIL_MS
    assert len(told["data_sha256"]) == 64
    assert {"numpy", "torch", "onnx"} <= told.keys()
    assert made.bundle.meta.metrics == made.metrics
    assert set(made.seconds) == {"replay", "network", "export", "scores", "learner", "bundle"}
    assert json.loads(made.report_path.read_text())["best_epoch"] >= 1


def test_progress_tells_every_stage_to_its_end(trained):
    _, stages = trained
    assert list(dict.fromkeys(each.name for each in stages)) == ["replay", "network", "export", "scores", "learner"]
    last = {each.name: each for each in stages}
    assert all(each.done == each.total for each in last.values())


def test_equal_seeds_give_equal_models_and_a_network_can_be_alone(trained, history, tmp_path):
    made, _ = trained
    alone = dataclasses.replace(risk, learner=None)
    again = train_on(history, alone, TrainingSettings(until_ms=UNTIL_MS, quick=True), tmp_path)
    for part in ("moe.onnx", "training.json"):  # with curves, and without how long it took
        assert again.bundle.files[part] == made.bundle.files[part]
    assert len(json.loads(made.bundle.parts["training.json"])["curves"]["gradient_norm"]) > 10
    assert Scorer(again.bundle, None, history.specs).rung == "moe"


def test_an_equal_training_gives_an_equal_bundle(history, tmp_path):
    settings = TrainingSettings(until_ms=UNTIL_MS)
    made = [train_on(history, learner_only, settings, tmp_path / name) for name in ("a", "b")]
    assert made[0].bundle.id == made[1].bundle.id


def test_a_training_does_not_see_what_became_known_later(history, tmp_path):
    # labels known from the moment of training on say the opposite; events from then on have other features
    later = history.known_ms >= UNTIL_MS
    happened_later = history.times_ms >= UNTIL_MS
    assert (later & ~happened_later).sum() > 100
    labels, features = history.labels.copy(), history.features.copy()
    labels[later] = 1 - labels[later]
    features[happened_later] = 0.0
    changed = dataclasses.replace(history, labels=labels, features=features)
    settings = TrainingSettings(until_ms=UNTIL_MS)
    before, after = (
        train_on(data, learner_only, settings, tmp_path / name) for name, data in (("a", history), ("b", changed))
    )
    assert after.bundle.id == before.bundle.id
    everything = train_on(changed, learner_only, TrainingSettings(), tmp_path / "c")
    assert everything.bundle.id != before.bundle.id


def test_events_too_young_for_both_kinds_of_label_are_left_out(history):
    # age in days of an event at the time of training   0 . . . . 1 . . . . 2 . . . . 3
    # a fraud is reported after 12 hours or so               x
    # a genuine payment is confirmed after 2 days                            x
    known = as_known(history, UNTIL_MS)
    young = history.where((history.times_ms > known.times_ms.max()) & (history.known_ms < UNTIL_MS))
    assert known.times_ms.max() <= UNTIL_MS - 2 * DAY_MS
    assert known.known_ms.max() < UNTIL_MS
    assert young.labels[young.times_ms > UNTIL_MS - 2 * DAY_MS].min() == 1  # there it would have seen frauds only
    shares = [part.labels.mean() for part in (known, history.where(np.isfinite(history.labels)))]
    assert shares[0] == pytest.approx(shares[1], rel=0.25)


def test_a_task_without_a_network_has_a_bundle_of_its_learner(history, tmp_path):
    made = train_on(history, learner_only, TrainingSettings(until_ms=UNTIL_MS), tmp_path)
    assert set(made.bundle.parts) == {"specs.json", "blend.json", "typical.json", "ftrl.npz"}
    scorer = Scorer(made.bundle, None, history.specs)
    assert scorer.rung == "ftrl"
    assert np.isfinite(scorer.score(history.features[:10]).probability).all()
    assert made.report_path is None


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (dataclasses.replace(risk, label=None), "task 'risk' has no label; give it one to learn from"),
        (dataclasses.replace(risk, model=None, learner=None), "task 'risk' decides by rules alone; give it model="),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(task, message, tmp_path):
    with pytest.raises(TrainingError, match=message):
        train_together(app, [task], {}, TrainingSettings(), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0; give 1 or more"),
        ({"held_back": 0.9}, "held_back is 0.9; give a share above 0"),
        ({"start_ms": 5, "until_ms": 5}, r"start \(5 ms\) is not before until \(5 ms\); swap them"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(TrainingError, match=message):
        TrainingSettings(**settings)


def test_too_little_history(history, tmp_path):
    with pytest.raises(TrainingError, match="no event of the history has a label that was known in time"):
        train_on(history, learner_only, TrainingSettings(until_ms=START_MS), tmp_path)
    genuine = history.where(history.labels == 0)
    with pytest.raises(TrainingError, match=r"0 of the \d+ labels before the held-back part are positive; both kinds"):
        train_on(genuine, learner_only, TrainingSettings(), tmp_path)
