"""How good are scores? Numpy only; the same definitions as scikit-learn where it has them.

Scores are any numbers that rise with the risk, labels are 0 or 1 (bool, int or float). Where an answer does not exist
(one class is absent, nothing was given) it is NaN, never an exception: a live view must not stop for it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
Labels = NDArray[np.generic]


class MetricError(ValueError):
    """Arrays do not fit each other; the message says which."""


@dataclass(frozen=True)
class AtThreshold:
    """Counts and shares of a decision "score >= threshold"; NaN where a share has nothing to divide by."""

    threshold: float
    true_alerts: int
    false_alerts: int
    missed: int

    @property
    def precision(self) -> float:
        """Share of alerts that were right."""
        return _share(self.true_alerts, self.true_alerts + self.false_alerts)

    @property
    def recall(self) -> float:
        """Share of positives that were found."""
        return _share(self.true_alerts, self.true_alerts + self.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if no alert was right, NaN if there was nothing to find."""
        return _share(2 * self.true_alerts, 2 * self.true_alerts + self.false_alerts + self.missed)


def at_threshold(scores: Float64s, labels: Labels, threshold: float) -> AtThreshold:
    """Count what alerting at `threshold` and above would have found, in (n,) scores and labels."""
    scores, positive, _ = _checked(scores, labels)
    alert = scores >= threshold
    return AtThreshold(
        threshold, int((alert & positive).sum()), int((alert & ~positive).sum()), int((~alert & positive).sum())
    )


def roc_curve(scores: Float64s, labels: Labels, weights: Float64s | None = None) -> tuple[Float64s, Float64s, Float64s]:
    """Return false positive rates, true positive rates and the thresholds, falling; equal scores are one point."""
    thresholds, true, false = _cumulated(*_checked(scores, labels, weights))
    with np.errstate(invalid="ignore"):
        return (
            np.concatenate([[0.0], false / false[-1]]) if false.size else np.zeros(1),
            np.concatenate([[0.0], true / true[-1]]) if true.size else np.zeros(1),
            np.concatenate([[np.inf], thresholds]),
        )


def roc_auc(scores: Float64s, labels: Labels, weights: Float64s | None = None) -> float:
    """Return the chance that a positive scores above a negative, ties counting half."""
    _, true, false = _cumulated(*_checked(scores, labels, weights))
    if not true.size or not true[-1] > 0 or not false[-1] > 0:
        return float("nan")
    heights = np.concatenate([[0.0], true])
    widths = np.diff(np.concatenate([[0.0], false]))
    return float((widths * (heights[1:] + heights[:-1])).sum() / 2 / (true[-1] * false[-1]))


def precision_recall_curve(scores: Float64s, labels: Labels) -> tuple[Float64s, Float64s, Float64s]:
    """Return precisions, recalls and the thresholds, falling (so recall rises); equal scores are one point."""
    thresholds, true, false = _cumulated(*_checked(scores, labels))
    positives = true[-1] if true.size and true[-1] > 0 else np.nan
    return true / (true + false), true / positives, thresholds


def average_precision(scores: Float64s, labels: Labels) -> float:
    """Return the mean of the precision over the steps of recall."""
    precisions, recalls, _ = precision_recall_curve(scores, labels)
    if not recalls.size or np.isnan(recalls[-1]):
        return float("nan")
    return float((np.diff(np.concatenate([[0.0], recalls])) * precisions).sum())


def log_loss(probabilities: Float64s, labels: Labels) -> float:
    """Return the mean negative log likelihood, in nats; probabilities are kept 2e-16 away from 0 and 1."""
    probabilities, positive, _ = _checked(probabilities, labels)
    return float(log_losses(probabilities, positive).mean()) if positive.size else float("nan")


def log_losses(probabilities: Float64s, labels: Labels) -> Float64s:
    """Return the negative log likelihood of each of (n,) events, in nats."""
    nearest = np.finfo(np.float64).eps  # what scikit-learn keeps
    inside = np.clip(probabilities, nearest, 1 - nearest)
    losses: Float64s = -np.where(labels.astype(bool), np.log(inside), np.log1p(-inside))
    return losses


def brier(probabilities: Float64s, labels: Labels) -> float:
    """Return the mean squared difference between probability and label."""
    probabilities, positive, _ = _checked(probabilities, labels)
    return float(((probabilities - positive) ** 2).mean()) if positive.size else float("nan")


def calibration_bins(probabilities: Float64s, labels: Labels, bins: int = 15) -> tuple[Float64s, Float64s, Float64s]:
    """Return mean probability, share of positives and events of at most `bins` bins with equally many events."""
    probabilities, positive, _ = _checked(probabilities, labels)
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if part.size]
    return (
        np.array([probabilities[part].mean() for part in parts]),
        np.array([positive[part].mean() for part in parts]),
        np.array([float(part.size) for part in parts]),
    )


def calibration_error(probabilities: Float64s, labels: Labels, bins: int = 15) -> float:
    """Return the expected calibration error: |mean probability - share of positives|, averaged over equal-mass bins.

    Source: Nixon et al., "Measuring Calibration in Deep Learning", 2019 (adaptive calibration error, binary).
    """
    means, shares, events = calibration_bins(probabilities, labels, bins)
    return float((np.abs(means - shares) * events).sum() / events.sum()) if events.size else float("nan")


def card_precision(
    scores: Float64s, labels: Labels, cards: NDArray[np.generic], days: NDArray[np.generic], k: int = 100
) -> float:
    """Return the card precision@k: of the k cards with the highest score of a day, the share with fraud that day.

    A card counts with its highest score of the day, and as compromised if any of its events of that day is fraud. A
    compromised card among the k was found: it is left out on the days after. A day with fewer than k cards still
    divides by k. The mean over days is returned, NaN if there are none.

    Args:
        scores: (n,) finite.
        labels: (n,) 0 or 1.
        cards: (n,) anything that can be sorted.
        days: (n,) anything that can be sorted, taken in that order.
        k: cards looked at per day.

    Source: Le Borgne et al., Fraud Detection Handbook, chapter "Precision top-k metrics" (`card_precision_top_k`).
    """
    scores, positive, _ = _checked(scores, labels)
    if cards.shape != scores.shape or days.shape != scores.shape:
        raise MetricError(f"{len(scores)} scores, {len(cards)} cards and {len(days)} days; give one of each per event")
    _, card = np.unique(cards, return_inverse=True)
    found = np.zeros(card.max(initial=-1) + 1, bool)
    precisions = []
    for day in np.unique(days):
        here = np.flatnonzero(days == day)
        here = here[~found[card[here]]]
        highest = np.full(found.size, -np.inf)
        np.maximum.at(highest, card[here], scores[here])
        compromised = np.zeros(found.size, bool)
        compromised[card[here[positive[here]]]] = True
        seen = np.unique(card[here])
        top = seen[np.argsort(-highest[seen], kind="stable")[:k]]
        precisions.append(compromised[top].sum() / k)
        found[top[compromised[top]]] = True
    return float(np.mean(precisions)) if precisions else float("nan")


def macro_f1(said: NDArray[np.int64], classes: NDArray[np.int64]) -> float:
    """Return the mean over classes, those that are there or said, of 2 tp / (2 tp + fp + fn); NaN without any.

    >>> macro_f1(np.array([0, 1, 1]), np.array([0, 1, 0]))
    0.6666666666666666
    """
    hits = said == classes
    shares = [
        2 * int((hits & (classes == place)).sum()) / int((said == place).sum() + (classes == place).sum())
        for place in np.union1d(said, classes)
    ]
    return float(np.mean(shares)) if shares else float("nan")


def _checked(
    scores: Float64s, labels: Labels, weights: Float64s | None = None
) -> tuple[Float64s, NDArray[np.bool_], Float64s]:
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    weights = np.ones(scores.shape) if weights is None else np.asarray(weights, np.float64)
    if scores.ndim != 1 or labels.shape != scores.shape or weights.shape != scores.shape:
        raise MetricError(f"scores have shape {scores.shape}, labels {labels.shape}; give one label per score")
    if np.isnan(scores).any():
        raise MetricError(f"scores[{np.flatnonzero(np.isnan(scores))[0]}] is NaN; leave such events out")
    positive = labels.astype(np.float64) == 1
    if not (positive | (labels.astype(np.float64) == 0)).all():
        raise MetricError(f"labels hold {labels[~positive & (labels != 0)][0]}; they must be 0 or 1")
    return scores, positive, weights


def _cumulated(scores: Float64s, positive: NDArray[np.bool_], weights: Float64s) -> tuple[Float64s, Float64s, Float64s]:
    """Return the distinct scores, falling, and the weights of positives and negatives at or above each."""
    order = np.argsort(-scores, kind="stable")
    scores, positive, weights = scores[order], positive[order], weights[order]
    last = np.flatnonzero(np.concatenate([np.diff(scores) != 0, [True]])) if scores.size else np.empty(0, np.int64)
    return scores[last], np.cumsum(weights * positive)[last], np.cumsum(weights * ~positive)[last]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
