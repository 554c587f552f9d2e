"""Thresholds: bands, a share of alerts held under drift, the same decisions in any batches."""

import msgspec
import numpy as np
import pytest

from models.threshold import ALLOW, BLOCK, DECISIONS, REVIEW, Dynamic, Fixed, ThresholdError, ThresholdState


def drifting_scores(events, seed, drift_logits=4.0):
    """Scores whose logits rise by `drift_logits`, sink below where they began, and widen."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, events)
    centre = -5 + drift_logits * np.sin(2 * np.pi * t)
    return 1 / (1 + np.exp(-rng.normal(centre, 1 + 0.5 * t)))


def in_batches(threshold, scores, size):
    state, parts = threshold.start(), []
    for i in range(0, len(scores), size):
        banded, state = threshold.decide(scores[i : i + size], state)
        parts.append(banded)
    joined = [
        np.concatenate([getattr(part, name) for part in parts]) for name in ("codes", "thresholds", "block_thresholds")
    ]
    return joined, state


def test_a_fixed_threshold_allows_reviews_and_blocks():
    fixed = Fixed(review=0.5, block=0.85)
    banded, state = fixed.decide(np.array([0.49, 0.5, 0.84, 0.85, 1.0]), fixed.start())
    assert banded.codes.tolist() == [ALLOW, REVIEW, REVIEW, BLOCK, BLOCK]
    assert [DECISIONS[code] for code in banded.codes] == ["allow", "review", "review", "block", "block"]
    assert state == fixed.start()


@pytest.mark.parametrize(("rate", "window"), [(0.005, 10_000), (0.02, 5_000), (0.1, 2_000)])
def test_the_share_of_alerts_is_held_within_a_fifth_while_scores_drift(rate, window):
    scores = drifting_scores(200_000, seed=1)
    (codes, lines, _), _ = in_batches(Dynamic(alert_rate=rate, window=window, lowest=1e-4), scores, 1000)
    alerts = codes != ALLOW
    assert abs(alerts[window:].mean() / rate - 1) < 0.05
    judged = 4 * window
    for start in range(window, 200_000 - judged + 1, judged):
        assert abs(alerts[start : start + judged].mean() / rate - 1) < 0.2
    fixed = scores >= lines[window]
    assert abs(fixed[window:].mean() / rate - 1) > 0.5  # standing still would not have done it


def test_the_rest_of_the_share_is_how_far_the_line_moved():
    # share - rate = (line after - line before) / (step * events), for any scores
    scores = np.random.default_rng(3).random(50_000) ** np.linspace(1, 9, 50_000)
    dynamic = Dynamic(alert_rate=0.05, window=4000, lowest=1e-6, highest=1 - 1e-6)
    _, state = dynamic.decide(scores[:20_000], dynamic.start())
    banded, after = dynamic.decide(scores[20_000:], state)
    step = 8 / (4000 * 0.05)
    moved = (after.line - state.line) / (step * 30_000)
    np.testing.assert_allclose((banded.codes != ALLOW).mean() - 0.05, moved, atol=1e-9)


@pytest.mark.parametrize("threshold", [Dynamic(), Dynamic(alert_rate=0.02, block_rate=0.01), Fixed()])
def test_batches_of_1_7_1000_and_all_decide_the_same_bits(threshold):
    scores = drifting_scores(5000, seed=2)
    scores[::97] = np.nan
    (whole, state) = in_batches(threshold, scores, 5000)
    for size in (1, 7, 1000):
        parts, end = in_batches(threshold, scores, size)
        for part, expected in zip(parts, whole, strict=True):
            np.testing.assert_array_equal(part, expected)
        assert end == state


def test_scores_that_may_not_be_written_are_read():
    scores = drifting_scores(100, seed=4)
    scores.setflags(write=False)
    assert Dynamic().decide(scores, Dynamic().start())[1].events == 100


def test_the_state_survives_a_manifest():
    dynamic = Dynamic()
    _, state = dynamic.decide(drifting_scores(777, seed=4), dynamic.start())
    assert msgspec.json.decode(msgspec.json.encode(state), type=ThresholdState) == state


def test_it_starts_at_its_base_and_blocks_a_margin_above():
    dynamic = Dynamic(base=0.85, block_margin=2.0)
    banded, _ = dynamic.decide(np.array([0.1]), dynamic.start())
    assert banded.thresholds[0] == pytest.approx(0.85)
    assert banded.block_thresholds[0] == pytest.approx(1 / (1 + np.exp(-(np.log(0.85 / 0.15) + 2))))


def test_two_shares_are_held_at_once():
    scores = drifting_scores(200_000, seed=5)
    dynamic = Dynamic(alert_rate=0.02, block_rate=0.005, window=20_000, lowest=1e-4)
    (codes, lines, blocks), _ = in_batches(dynamic, scores, 1000)
    assert (codes != ALLOW)[20_000:].mean() == pytest.approx(0.02, rel=0.1)
    assert (codes == BLOCK)[20_000:].mean() == pytest.approx(0.005, rel=0.1)
    assert (blocks >= lines).all()


def test_the_line_stays_within_its_bounds():
    dynamic = Dynamic(base=0.5, alert_rate=0.1, window=100, lowest=0.3, highest=0.7)
    high, _ = dynamic.decide(np.ones(5000), dynamic.start())
    low, _ = dynamic.decide(np.zeros(5000), dynamic.start())
    assert high.thresholds.max() == pytest.approx(0.7)
    assert low.thresholds.min() == pytest.approx(0.3)


def test_a_score_that_is_not_finite_is_reviewed_and_moves_nothing():
    dynamic = Dynamic()
    banded, state = dynamic.decide(np.array([np.nan, np.inf, -np.inf]), dynamic.start())
    assert banded.codes.tolist() == [REVIEW] * 3
    assert state == dynamic.start()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alert_rate": 0}, "alert_rate is 0; it is a share of events"),
        ({"base": 1.0}, "give 0 < lowest <= base <= highest < 1"),
        ({"window": 10}, "window is 10 events with 0.05 alerts expected in it; give at least 2000 events"),
        ({"block_rate": 0.5}, "blocked events are a part of the alerts"),
        ({"block_margin": -1}, "block_margin is -1; give logits, zero or more"),
    ],
)
def test_a_dynamic_threshold_that_cannot_be_held_is_refused(wrong, message):
    with pytest.raises(ThresholdError, match=message):
        Dynamic(**wrong)


def test_a_fixed_threshold_the_wrong_way_round_is_refused():
    with pytest.raises(ThresholdError, match=r"review is 0\.9 and block is 0\.5; give 0 <= review <= block <= 1"):
        Fixed(review=0.9, block=0.5)
