"""A training with a student, end to end: what is in the bundle, how both compare, what answers when time is short."""

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from models.bundle import read_bundle
from models.metrics import roc_auc
from models.scorer import DISTILLED, DISTILLED_BLEND, MOE, Scorer
from ops.cli import app as cli
from ops.cli import spread
from ops.simulate import SimulationSettings, simulate
from ops.training.evaluating import Days
from ops.training.evaluation import evaluate
from ops.training.event_training import train_on
from ops.training.found import EvaluationSettings
from ops.training.history import read_history
from ops.training.training import TrainingSettings
from pipeline import App, Task
from tests.ops.bank_streams import card, frauds, inputs, of_card, payments

features = of_card | {"places_24h": card.last("24h").distinct("place")}
risk = Task("risk", on=payments, features=features, label=frauds.is_fraud, entity="card")
app = App("bank", [risk])
SETTINGS = TrainingSettings(quick=True, distill=True)
pytestmark = pytest.mark.timeout(400)  # three trainings: on a busy machine each takes a minute


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("stream")
    simulate(SimulationSettings(days=8, events_per_day=600, cards=120, terminals=40, fraud_rate=0.05, seed=3), out)
    return out


@pytest.fixture(scope="module")
def history(folder):
    return read_history(app, risk, inputs(folder))


@pytest.fixture(scope="module")
def trained(history, tmp_path_factory):
    return train_on(history, risk, SETTINGS, tmp_path_factory.mktemp("out"))


def test_the_bundle_holds_both_networks_under_one_hash(trained):
    bundle = read_bundle(trained.folder)
    assert {MOE, DISTILLED, DISTILLED_BLEND} <= set(bundle.files)
    assert len(bundle.part(DISTILLED)) < len(bundle.part(MOE))
    damaged = bytearray(bundle.part(DISTILLED))
    damaged[100] ^= 1
    (trained.folder / DISTILLED).write_bytes(damaged)
    try:
        with pytest.raises(ValueError, match=f"{DISTILLED} is damaged"):
            read_bundle(trained.folder)
    finally:
        (trained.folder / DISTILLED).write_bytes(bundle.part(DISTILLED))


def test_the_fallback_answers_alone_calibrated_and_with_reasons(trained, history):
    scorer = Scorer(trained.bundle, None, history.specs)
    known = history.where(np.isfinite(history.labels))
    whole, student = scorer.score(known.features), scorer.fallback.score(known.features)
    assert (whole.rung, student.rung) == ("moe+ftrl", "distilled+ftrl")
    assert not np.array_equal(whole.moe_logits, student.moe_logits)
    assert roc_auc(student.probability, known.labels) > roc_auc(whole.probability, known.labels) - 0.05
    assert student.probability.mean() == pytest.approx(known.labels.mean(), rel=0.5)
    alarming = known.features[np.argsort(-student.probability)[:5]]
    assert all(scorer.fallback.reasons(alarming))
    assert scorer.fallback.fallback is None


def test_a_newer_learner_serves_with_the_student_too(trained, history):
    scorer = Scorer(trained.bundle, None, history.specs)
    newer = scorer._ftrl.copy()
    newer.learn(history.features[:50], np.ones(50), np.zeros(50))
    after = scorer.with_snapshot(newer.snapshot())
    for was, now in ((scorer, after), (scorer.fallback, after.fallback)):
        assert (now.score(history.features[:50]).ftrl_logits != was.score(history.features[:50]).ftrl_logits).any()
        assert now.rung == was.rung


def test_batches_do_not_matter_to_the_student(trained, history):
    student = Scorer(trained.bundle, None, history.specs).fallback
    whole = student.score(history.features[:70]).moe_logits
    alone = np.concatenate([student.score(history.features[row : row + 1]).moe_logits for row in range(70)])
    np.testing.assert_allclose(alone, whole, atol=1e-5)


def test_report_and_metrics_compare_both(trained):
    told = json.loads(trained.report_path.read_text())["networks"]["risk"]
    assert [each["name"] for each in told] == ["moe", "distilled"]
    for each in told:
        assert each["size_bytes"] == len(trained.bundle.part({"moe": MOE, "distilled": DISTILLED}[each["name"]]))
        assert each["one_ms"] > 0
        assert each["figures"]["auc"] == trained.metrics[f"held_back.{each['name']}.auc"]
    assert {"held_back.distilled_blend.auc", "held_back.blend.auc"} <= set(trained.metrics)


def test_a_training_with_a_student_can_be_repeated_and_leaves_the_rest_as_it_was(trained, history, tmp_path):
    again = train_on(history, risk, SETTINGS, tmp_path / "again")
    assert again.bundle.id == trained.bundle.id
    without = train_on(history, risk, dataclasses.replace(SETTINGS, distill=False), tmp_path / "without")
    assert not without.networks
    assert DISTILLED not in without.bundle.parts
    for part in without.bundle.files:
        assert without.bundle.files[part] == trained.bundle.files[part]
    assert Scorer(without.bundle, None, history.specs).fallback is None


def test_an_evaluation_judges_both(trained, folder, tmp_path):
    settings = EvaluationSettings(baseline=False, online=False)
    found = evaluate(app, risk, inputs(folder), Days(), tmp_path, trained.bundle, settings)
    by_name = {each.model: each for each in found.figures}
    assert {"blend", "blend, distilled", "network", "student"} <= set(by_name)
    assert next(iter(by_name)) == "blend"
    assert by_name["student"].auc > 0.7


def test_the_command_shows_size_quality_and_speed_of_both(trained):
    result = CliRunner().invoke(cli, spread(["models", "inspect", str(trained.folder)]))
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    rows = {line[0]: line for line in lines if line and line[0] in ("moe", "distilled") and len(line) > 4}
    assert set(rows) == {"moe", "distilled"}
    assert "ms alone" in result.output
