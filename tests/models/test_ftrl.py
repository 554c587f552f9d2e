"""The online model: learns, agrees with its snapshot to the bit, refuses what it cannot use."""

import io

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from models.features import FeatureSpec
from models.ftrl import Ftrl, FtrlSettings, LearnerError

SPECS = (FeatureSpec("amount"), FeatureSpec("hour"), FeatureSpec("merchant", "category"), FeatureSpec("amount", step=1))


def make_stream(rows, seed):
    rng = np.random.default_rng(seed)
    amount, hour = rng.lognormal(3, 1, rows), rng.integers(0, 24, rows)
    merchant = rng.integers(0, 40, rows)
    risky = np.random.default_rng(99).normal(0, 1, 40)[merchant]
    logit = 1.5 * (np.log(amount) - 3) + 1.5 * (hour < 6) + risky - 2  # the hour's effect is a step
    labels = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(float)
    features = np.column_stack([amount, hour, merchant * 1000.0 + 17, amount])
    features[rng.random(rows) < 0.05, 0] = np.nan
    return features, labels, logit


def test_learns_online_what_a_batch_regression_finds():
    features, labels, logit = make_stream(30_000, seed=1)
    model = Ftrl.fitted(SPECS, features[:5000], settings=FtrlSettings(moe=False))
    progressive = model.learn(features, labels)
    best = roc_auc_score(labels[15_000:], logit[15_000:])  # knows the amounts that are missing
    assert roc_auc_score(labels[15_000:], progressive[15_000:]) > best - 0.015
    plain = np.column_stack([np.nan_to_num(features[:, 0], nan=20), features[:, 1]])
    linear = LogisticRegression(max_iter=1000).fit(plain[:15_000], labels[:15_000])
    linear_auc = roc_auc_score(labels[15_000:], linear.decision_function(plain[15_000:]))
    assert roc_auc_score(labels[15_000:], progressive[15_000:]) > linear_auc + 0.02


def test_the_progressive_logits_are_the_predictions_before_learning():
    features, labels, _ = make_stream(50, seed=2)
    model = Ftrl.fitted(SPECS, features, settings=FtrlSettings(moe=False))
    one_by_one = []
    other = model.copy()
    for i in range(50):
        one_by_one.append(other.predict(features[i : i + 1])[0])
        other.learn(features[i : i + 1], labels[i : i + 1])
    np.testing.assert_array_equal(model.learn(features, labels), one_by_one)
    assert model.version() == other.version()
    assert model.learned == 50


def test_the_moe_logit_is_one_more_column():
    features, labels, logit = make_stream(5000, seed=3)
    model = Ftrl.fitted(SPECS, features, logit)
    model.learn(features, labels, logit)
    assert roc_auc_score(labels, model.predict(features, logit)) > roc_auc_score(labels, model.predict(features)) + 0.02


def test_columns_of_previous_events_are_left_out_unless_asked_for():
    features, labels, _ = make_stream(500, seed=4)
    for sequence in (False, True):
        model = Ftrl.fitted(SPECS, features, settings=FtrlSettings(sequence=sequence))
        model.learn(features, labels)
        other = features.copy()
        other[:, 3] *= 10
        assert (model.predict(features) == model.predict(other)).all() != sequence


def test_a_restored_learner_goes_on_as_if_nothing_happened():
    features, labels, logit = make_stream(2000, seed=5)
    model = Ftrl.fitted(SPECS, features, logit)
    model.learn(features[:1000], labels[:1000], logit[:1000])
    restored = Ftrl.restore(model.snapshot())
    np.testing.assert_array_equal(
        restored.learn(features[1000:], labels[1000:], logit[1000:]),
        model.learn(features[1000:], labels[1000:], logit[1000:]),
    )
    assert restored.snapshot() == model.snapshot()
    assert (restored.specs, restored.settings, restored.learned) == (model.specs, model.settings, 2000)


def test_a_snapshot_that_was_never_touched_is_small():
    assert len(Ftrl(SPECS).snapshot()) < 4000


@pytest.mark.parametrize("keep", [0, 10, 500])
def test_a_damaged_snapshot_is_refused_in_words(keep):
    model = Ftrl(SPECS)
    with pytest.raises(LearnerError, match="no learner snapshot, or a damaged one"):
        Ftrl.restore(model.snapshot()[:keep])


def test_a_snapshot_with_weights_that_are_not_finite_is_refused():
    model = Ftrl(SPECS)
    model.slots[3] = [np.nan, 1, 1]
    with pytest.raises(LearnerError, match="not finite"):
        Ftrl.restore(model.snapshot())


def test_a_snapshot_of_another_kind_is_refused():
    file = io.BytesIO()
    np.savez(
        file, meta=np.frombuffer(b'{"format": "x", "specs": [], "settings": {}, "learned": 0, "slots": 1}', np.uint8)
    )
    with pytest.raises(LearnerError, match="has format 'x'; this version reads pelton-ftrl-1"):
        Ftrl.restore(file.getvalue())


def test_a_matrix_of_another_width_is_refused():
    with pytest.raises(LearnerError, match=r"features has shape \(2, 3\); the learner knows 4 columns"):
        Ftrl(SPECS).predict(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": 0}, "alpha is 0; it must be above zero"),
        ({"l2": -1}, "l2 is -1; it must be zero or more"),
        ({"bits": 30}, "bits is 30; choose between 0 and 24"),
        ({"bins": 0}, "bins is 0; choose between 1 and 256"),
    ],
)
def test_settings_that_cannot_learn_are_refused(wrong, message):
    with pytest.raises(LearnerError, match=message):
        FtrlSettings(**wrong)
