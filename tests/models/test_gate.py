"""The gate: lets a better learner through, and says in words why another may not serve."""

import numpy as np
import pytest

from models.features import FeatureSpec
from models.ftrl import Ftrl, FtrlSettings
from models.gate import GateLimits, gate

SPECS = (FeatureSpec("x"), FeatureSpec("y"))


def stream(rows, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 2))
    return features, (rng.random(rows) < 1 / (1 + np.exp(2 - 1.5 * features[:, 0]))).astype(float)


@pytest.fixture
def learned():
    features, labels = stream(5000, seed=0)
    model = Ftrl.fitted(SPECS, features, settings=FtrlSettings(moe=False))
    model.learn(features, labels)
    return model


def test_the_first_learner_and_one_that_learned_more_pass(learned):
    held = stream(2000, seed=1)
    first = gate(learned, None, *held)
    assert first.accepted, first.reasons
    assert first.reasons == ("finite and calibrated on 2000 held-back labels",)
    more = learned.copy()
    more.learn(*stream(2000, seed=2))
    verdict = gate(more, learned, *held)
    assert verdict.accepted, verdict.reasons
    assert "not worse than what serves" in verdict.reasons[0]
    assert verdict.measured["labels"] == 2000


def test_weights_that_are_not_finite_are_refused(learned):
    broken = learned.copy()
    broken.slots[1, 2] = np.inf
    verdict = gate(broken, learned, *stream(2000, seed=1))
    assert (verdict.accepted, verdict.reasons) == (False, ("it holds or gives numbers that are not finite",))


def test_too_few_labels_prove_nothing(learned):
    verdict = gate(learned, None, *stream(150, seed=1))
    assert not verdict.accepted
    assert "150 held-back labels with" in verdict.reasons[0]
    assert not gate(learned, None, np.zeros((0, 2)), np.zeros(0)).accepted
    features, labels = stream(2000, seed=1)
    assert not gate(learned, None, features, np.zeros_like(labels)).accepted


def test_a_learner_that_saw_flipped_labels_is_refused_for_every_reason(learned):
    features, labels = stream(5000, seed=3)
    poisoned = learned.copy()
    poisoned.learn(features, 1 - labels)
    verdict = gate(poisoned, learned, *stream(2000, seed=1), limits=GateLimits(mean_step_max=0.5))
    assert not verdict.accepted
    words = "; ".join(verdict.reasons)
    assert "its calibration error is" in words
    assert "positives where" in words
    assert "its log loss is" in words
    assert "it moves logits by" in words


def test_a_leap_is_refused_even_if_it_is_better(learned):
    blank = Ftrl(SPECS, learned.settings, learned.scaling)
    verdict = gate(learned, blank, *stream(2000, seed=1))
    assert [reason.split(" by ")[0] for reason in verdict.reasons] == [
        "it moves logits",
        "it moves one logit in a hundred",
    ]


def test_a_broken_serving_model_is_replaced(learned):
    broken = learned.copy()
    broken.slots[0, 2] = np.nan
    assert gate(learned, broken, *stream(2000, seed=1)).accepted
