"""The learner beside the server: late labels make it better, batches do not matter, bad snapshots stay behind."""

import numpy as np
import pytest

from models.features import FeatureSpec
from models.ftrl import Ftrl, FtrlSettings
from models.learner import LearnerSettings, OnlineLearner

SPECS = (FeatureSpec("x"), FeatureSpec("merchant", "category"))
DELAY = 700  # events until a label is known


def make_stream(rows, seed=0):
    rng = np.random.default_rng(seed)
    features = np.column_stack([rng.normal(size=rows), rng.integers(0, 5, rows)])
    moe = features[:, 0] + rng.normal(0, 1, rows)
    labels = (rng.random(rows) < 1 / (1 + np.exp(2 - 1.5 * features[:, 0] - (features[:, 1] == 2)))).astype(float)
    return np.arange(rows) * 7919, features, moe, labels


def run(batch, rows=12_000, flip=False):
    ids, features, moe, labels = make_stream(rows)
    model = Ftrl.fitted(SPECS, features[:1000], moe[:1000], FtrlSettings(bits=8))
    learner = OnlineLearner(model, 2, LearnerSettings(events_max=2000))
    known = 1 - labels if flip else labels
    for start in range(0, rows, batch):
        here = slice(start, start + batch)
        learner.serve(ids[here], features[here], moe[here], np.full(len(ids[here]), 0.5))
        late = slice(max(0, start - DELAY), max(0, min(rows, start + batch) - DELAY))
        learner.label(ids[late], known[late])
    return learner


def test_learns_from_late_labels_and_offers_a_snapshot():
    learner = run(batch=100)
    assert learner.counts["joined"] == 12_000 - DELAY
    assert learner.counts["unmatched"] == 0
    assert learner.progressive.report()["auc"] > 0.8
    assert learner.live.auc() == 0.5  # what was served knew nothing
    snapshot, verdict = learner.candidate()
    assert verdict.accepted, verdict.reasons
    assert verdict.measured["labels"] == pytest.approx((12_000 - DELAY) / 10, rel=0.2)
    assert Ftrl.restore(snapshot).learned == learner.model.learned == 12_000 - DELAY - verdict.measured["labels"]


@pytest.mark.parametrize("batch", [1, 7])
def test_batches_do_not_matter(batch):
    assert run(batch, rows=2800).model.version() == run(2800 // 4, rows=2800).model.version()


def test_flipped_labels_do_not_get_past_labels_that_are_right():
    learner = run(batch=100)
    learner.publish()
    poison = run(batch=100, flip=True)
    learner.model = poison.model
    _, verdict = learner.candidate()
    assert not verdict.accepted
    assert any("log loss" in reason for reason in verdict.reasons)


def test_a_blank_learner_proves_nothing():
    learner = OnlineLearner(Ftrl(SPECS), 2)
    _, verdict = learner.candidate()
    assert verdict.reasons == ("0 held-back labels with 0 positives prove nothing; 200 with 5 are needed",)
