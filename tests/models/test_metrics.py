"""Metrics: scikit-learn's where it has them, the handbook's for cards, and never an exception for an absent class."""

import numpy as np
import pytest
from sklearn import metrics as reference

from models import metrics


def make_scores(rows, seed, ties):
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.2).astype(int)
    scores = 1 / (1 + np.exp(-(labels + rng.normal(0, 1, rows) - 1)))
    return (np.round(scores, 1) if ties else scores), labels


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rows", [20, 1000])
def test_agrees_with_scikit_learn(rows, ties):
    scores, labels = make_scores(rows, seed=rows, ties=ties)
    weights = np.random.default_rng(1).random(rows)
    assert metrics.roc_auc(scores, labels) == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-12)
    assert metrics.roc_auc(scores, labels, weights) == pytest.approx(
        reference.roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12
    )
    assert metrics.average_precision(scores, labels) == pytest.approx(
        reference.average_precision_score(labels, scores), abs=1e-12
    )
    assert metrics.log_loss(scores, labels) == pytest.approx(reference.log_loss(labels, scores), abs=1e-9)
    assert metrics.brier(scores, labels) == pytest.approx(reference.brier_score_loss(labels, scores), abs=1e-12)
    at = metrics.at_threshold(scores, labels, 0.5)
    assert at.f1 == pytest.approx(reference.f1_score(labels, scores >= 0.5), abs=1e-12)
    assert at.precision == pytest.approx(reference.precision_score(labels, scores >= 0.5), abs=1e-12)
    assert at.recall == pytest.approx(reference.recall_score(labels, scores >= 0.5), abs=1e-12)
    for ours, theirs in zip(
        metrics.roc_curve(scores, labels), reference.roc_curve(labels, scores, drop_intermediate=False), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_an_absent_class_gives_nan():
    for scores, labels in ((np.array([]), np.array([])), (np.array([0.2, 0.9]), np.array([0, 0]))):
        assert np.isnan(metrics.roc_auc(scores, labels))
        assert np.isnan(metrics.average_precision(scores, labels))
        assert np.isnan(metrics.at_threshold(scores, labels, 0.95).f1)
    assert np.isnan(metrics.roc_auc(np.array([0.2, 0.9]), np.array([1, 1])))
    assert np.isnan(metrics.log_loss(np.array([]), np.array([])))
    assert np.isnan(metrics.calibration_error(np.array([]), np.array([])))


def test_calibration_error_of_honest_and_of_doubled_probabilities():
    rng = np.random.default_rng(4)
    honest = rng.random(100_000) * 0.5
    labels = rng.random(100_000) < honest
    assert metrics.calibration_error(honest, labels) < 0.01
    assert metrics.calibration_error(2 * honest, labels) == pytest.approx(0.25, abs=0.01)


def test_calibration_bins_hold_equally_many_events():
    scores, labels = make_scores(100, seed=0, ties=False)
    means, shares, events = metrics.calibration_bins(scores, labels, bins=10)
    assert events.tolist() == [10] * 10
    assert (np.diff(means) > 0).all()
    assert shares @ events == labels.sum()


def slow_card_precision(rows, k):
    """The handbook's definition, over plain rows (score, label, card, day)."""
    found, precisions = set(), []
    for day in sorted({row[3] for row in rows}):
        today = {}
        for score, label, card, its_day in rows:
            if its_day == day and card not in found:
                best, fraud = today.get(card, (-1.0, 0))
                today[card] = max(best, score), max(fraud, label)
        top = sorted(today, key=lambda card: (-today[card][0], card))[:k]
        right = [card for card in top if today[card][1]]
        precisions.append(len(right) / k)
        found.update(right)
    return sum(precisions) / len(precisions)


def test_card_precision_by_hand():
    # day 0: card a scores 0.9 (fraud), b 0.8; day 1: a is known and left out, c 0.7 (fraud), b 0.6
    scores = np.array([0.9, 0.1, 0.8, 0.95, 0.7, 0.6])
    labels = np.array([1, 0, 0, 1, 1, 0])
    cards = np.array(["a", "a", "b", "a", "c", "b"])
    days = np.array([0, 0, 0, 1, 1, 1])
    assert metrics.card_precision(scores, labels, cards, days, k=1) == 1.0
    assert metrics.card_precision(scores, labels, cards, days, k=2) == 0.5


@pytest.mark.parametrize("k", [1, 3, 50])
def test_card_precision_equals_the_definition_written_down_slowly(k):
    rng = np.random.default_rng(k)
    scores, labels = rng.random(600), (rng.random(600) < 0.15).astype(int)
    cards, days = rng.integers(0, 40, 600), rng.integers(0, 6, 600)
    rows = list(zip(scores.tolist(), labels.tolist(), cards.tolist(), days.tolist(), strict=True))
    assert metrics.card_precision(scores, labels, cards, days, k) == pytest.approx(slow_card_precision(rows, k))


def test_mistakes_are_named():
    with pytest.raises(metrics.MetricError, match=r"scores\[1\] is NaN; leave such events out"):
        metrics.roc_auc(np.array([0.1, np.nan]), np.array([0, 1]))
    with pytest.raises(metrics.MetricError, match="labels hold 2"):
        metrics.roc_auc(np.array([0.1, 0.2]), np.array([0, 2]))
    with pytest.raises(metrics.MetricError, match="one label per score"):
        metrics.roc_auc(np.array([0.1, 0.2]), np.array([0]))
    with pytest.raises(metrics.MetricError, match="2 scores, 1 cards and 2 days"):
        metrics.card_precision(np.zeros(2), np.zeros(2), np.zeros(1), np.zeros(2))


def test_macro_f1_agrees_with_scikit_learn():
    chance = np.random.default_rng(0)
    for classes in (2, 5, 40):  # of 40, some are said and not there, or there and not said
        said, truth = chance.integers(0, classes, (2, 60))
        assert metrics.macro_f1(said, truth) == pytest.approx(reference.f1_score(truth, said, average="macro"))
    assert np.isnan(metrics.macro_f1(np.zeros(0, np.int64), np.zeros(0, np.int64)))
