"""What every online learner must do. Each class of `models/` that predicts, learns and restores is checked here."""

import ast
from pathlib import Path

import numpy as np
import pytest

import models
from models.features import FeatureSpec
from models.ftrl import Ftrl, FtrlSettings
from models.metrics import roc_auc

SPECS = (FeatureSpec("a"), FeatureSpec("b"), FeatureSpec("c", "category"))
LEARNERS = {
    "Ftrl": lambda features: Ftrl.fitted(SPECS, features),
    "Ftrl without bins": lambda features: Ftrl.fitted(SPECS, features, settings=FtrlSettings(bins=1, l1=0.1)),
}


def make_stream(rows=3000, seed=0):
    rng = np.random.default_rng(seed)
    features = np.column_stack([rng.normal(size=(rows, 2)), rng.integers(0, 9, rows)])
    labels = (rng.random(rows) < 1 / (1 + np.exp(1 - 2 * features[:, 0]))).astype(float)
    features[rng.random(features.shape) < 0.05] = np.nan
    return features, labels, rng.normal(size=rows)


@pytest.fixture(params=LEARNERS)
def learner(request):
    return LEARNERS[request.param](make_stream()[0])


def test_every_learner_is_checked_here():
    methods = {"predict", "learn", "snapshot", "restore"}
    found = set()
    for source in Path(models.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and "Protocol" not in [getattr(base, "id", "") for base in node.bases]:
                names = {child.name for child in node.body if isinstance(child, ast.FunctionDef)}
                if methods <= names:
                    found.add(node.name)
    assert found == {type(make(make_stream()[0])).__name__ for make in LEARNERS.values()}


def test_it_gets_better(learner):
    features, labels, moe = make_stream()
    logits = learner.learn(features, labels, moe)
    assert roc_auc(logits[2000:], labels[2000:]) > 0.8
    assert learner.learned == 3000


def test_batches_do_not_matter(learner):
    features, labels, moe = make_stream(500)
    whole, pieces = learner.copy(), learner.copy()
    whole.learn(features, labels, moe)
    for i in range(0, 500, 7):
        pieces.learn(features[i : i + 7], labels[i : i + 7], moe[i : i + 7])
    assert pieces.snapshot() == whole.snapshot()
    one_by_one = [whole.predict(features[i : i + 1], moe[i : i + 1])[0] for i in range(50)]
    np.testing.assert_array_equal(whole.predict(features[:50], moe[:50]), one_by_one)


def test_predicting_and_unknown_labels_change_nothing(learner):
    features, labels, moe = make_stream(100)
    learner.learn(features, labels, moe)
    before = learner.snapshot()
    learner.predict(features, moe)
    learner.learn(features, np.full(100, np.nan), moe)
    learner.learn(features[:0], labels[:0], moe[:0])
    assert learner.snapshot() == before


def test_a_snapshot_restores_to_the_bit(learner):
    features, labels, moe = make_stream(600)
    learner.learn(features[:300], labels[:300], moe[:300])
    restored = type(learner).restore(learner.snapshot())
    for model in (learner, restored):
        model.learn(features[300:], labels[300:], moe[300:])
    assert restored.snapshot() == learner.snapshot()
    np.testing.assert_array_equal(restored.predict(features, moe), learner.predict(features, moe))


def test_a_copy_learns_on_its_own(learner):
    features, labels, moe = make_stream(100)
    before = learner.snapshot()
    learner.copy().learn(features, labels, moe)
    assert learner.snapshot() == before


def test_wild_values_do_not_poison_it(learner):
    features, labels, moe = make_stream(1000)
    rng = np.random.default_rng(1)
    wild = rng.random(features.shape) < 0.3
    features[wild] = rng.choice([np.nan, np.inf, -np.inf, 1.7e308, -1.7e308, 5e-324, -1], wild.sum())
    moe[::7] = np.inf
    assert np.isfinite(learner.learn(features, labels, moe)).all()
    assert learner.is_finite()
    assert np.isfinite(learner.predict(features)).all()
