"""Calibration: the same fit as scikit-learn, honest probabilities, exact in JSON, rising in every logit."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from models.calibration import Blend, CalibrationError, Isotonic, sigmoid
from models.metrics import calibration_error, log_loss


def two_models(rows=8000, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(-2, 1.5, rows)
    labels = (rng.random(rows) < sigmoid(truth)).astype(float)
    return np.column_stack([3 * truth + rng.normal(0, 3, rows) + 1, truth + rng.normal(0, 2, rows)]), labels


def test_the_fit_is_the_one_of_scikit_learn():
    logits, labels = two_models()
    reference = LogisticRegression(C=1e3, tol=1e-10, max_iter=1000).fit(logits, labels)  # C is 1 / RIDGE
    line = Blend.fit(("moe", "ftrl"), logits, labels).lines["moe+ftrl"]
    np.testing.assert_allclose([line.intercept, *line.slopes], [*reference.intercept_, *reference.coef_[0]], rtol=1e-5)


def test_a_blend_is_calibrated_and_better_than_each_alone():
    logits, labels = two_models()
    blend = Blend.fit(("moe", "ftrl"), logits[:4000], labels[:4000])
    both = blend.probability(logits[4000:])
    assert calibration_error(sigmoid(logits[4000:, 0]), labels[4000:]) > 0.05
    assert calibration_error(both, labels[4000:]) < 0.03
    for alone in (0, 1):
        masked = logits[4000:].copy()
        masked[:, 1 - alone] = np.nan
        assert log_loss(both, labels[4000:]) < log_loss(blend.probability(masked), labels[4000:])
        assert calibration_error(blend.probability(masked), labels[4000:]) < 0.03


def test_an_event_that_no_model_answered_has_no_probability():
    blend = Blend.fit(("moe", "ftrl"), *two_models())
    assert np.isnan(blend.probability(np.array([[np.nan, np.nan]]))).all()


def test_a_batch_and_its_rows_give_the_same_bits():
    logits, labels = two_models()
    logits[::5, 0] = np.nan
    blend = Blend.fit(("moe", "ftrl"), logits, labels)
    rows = np.concatenate([blend.logit(logits[i : i + 1]) for i in range(200)])
    np.testing.assert_array_equal(rows, blend.logit(logits[:200]))


def test_a_model_that_points_the_wrong_way_is_left_out():
    logits, labels = two_models()
    line = Blend.fit(("wrong", "right"), np.column_stack([-logits[:, 0], logits[:, 1]]), labels).lines["wrong+right"]
    assert line.slopes[0] == 0
    assert line.slopes[1] > 0


def test_perfectly_separated_labels_still_end():
    logits = np.linspace(-1, 1, 100)[:, None]
    line = Blend.fit(("ftrl",), logits, (logits[:, 0] > 0).astype(float)).lines["ftrl"]
    assert np.isfinite(line.slopes[0])


def test_json_is_exact():
    logits, labels = two_models(500)
    blend, curve = Blend.fit(("moe", "ftrl"), logits, labels), Isotonic.fit(logits[:, 0], labels)
    assert Blend.from_json(blend.to_json()) == blend
    assert Isotonic.from_json(curve.to_json()) == curve
    with pytest.raises(CalibrationError, match="this is no blend calibration"):
        Blend.from_json(b"{}")


@pytest.mark.parametrize("ties", [False, True])
def test_isotonic_is_the_one_of_scikit_learn(ties):
    logits, labels = two_models(2000)
    scores = np.round(logits[:, 0], 0 if ties else 12)
    reference = IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    asked = np.linspace(-30, 30, 999)
    ours = Isotonic.fit(scores, labels).probability(asked)
    np.testing.assert_allclose(ours, reference.predict(asked), atol=1e-12)
    assert (np.diff(ours) >= 0).all()


def test_mistakes_are_named():
    with pytest.raises(CalibrationError, match="0 of 9 labels are positive; both classes are needed"):
        Blend.fit(("ftrl",), np.zeros((9, 1)), np.zeros(9))
    with pytest.raises(CalibrationError, match=r"logits has shape \(9, 2\); expected \(9, 1\)"):
        Blend.fit(("ftrl",), np.zeros((9, 2)), np.zeros(9))
    with pytest.raises(CalibrationError, match="the blend knows 2 models"):
        Blend.fit(("moe", "ftrl"), *two_models(100)).logit(np.zeros((2, 3)))
    with pytest.raises(CalibrationError, match="at least one"):
        Isotonic.fit(np.array([]), np.array([]))


def test_a_blend_for_a_changed_model_says_what_it_said_before():
    logits, labels = two_models()
    blend = Blend.fit(("moe", "ftrl"), logits, labels)
    changed = logits * [0.5, 1] + [1, 0]  # the same model in other units
    again = blend.matched("moe", logits[:3000], changed[:3000])
    for missing in ([], [1], [0]):
        before, after = logits[3000:].copy(), changed[3000:].copy()
        before[:, missing] = after[:, missing] = np.nan
        np.testing.assert_allclose(again.probability(after), blend.probability(before), atol=1e-4)
    assert again.lines["ftrl"] == blend.lines["ftrl"]
    assert again.lines["moe"].slopes[0] == pytest.approx(2 * blend.lines["moe"].slopes[0], rel=1e-3)
