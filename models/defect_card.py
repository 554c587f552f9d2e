"""What a defect task's network is served with, from held-back images: temperature, threshold, scale of heat maps."""

from __future__ import annotations

from dataclasses import replace
from math import exp, lgamma, log, log1p

import numpy as np
from numpy.typing import NDArray

from models.defects import DefectCard, read_scores, softmax

Float64s = NDArray[np.float64]
CONFIDENCE = 0.9  # that the recall of images to come is not below its target
TEMPERATURES = np.exp(np.linspace(np.log(0.1), np.log(5.0), 157))


def fit_card(
    card: DefectCard, logits: Float64s, evidence: Float64s, classes: NDArray[np.int64], recall: float
) -> DefectCard:
    """Choose what `card` leaves open, by images that the network has not learned.

    Args:
        card: with classes, sound class and sizes.
        logits: (n, k) of the held-back images.
        evidence: (n, k, g, g) of them.
        classes: (n,) what they are.
        recall: share of defects to be alerted.

    Raises:
        ValueError: there is a sound class, and no held-back image is of it, or none has a defect.
    """
    card = replace(card, temperature=fit_temperature(logits, classes))
    scores = read_scores(logits, evidence, card)
    defective = np.ones(len(classes), np.bool_)
    if card.sound is not None:
        defective = classes != card.classes.index(card.sound)
        if not 0 < defective.sum() < defective.size:
            raise ValueError(
                f"{int(defective.sum())} of {defective.size} held-back images have a defect; both kinds are needed to "
                "choose a threshold, so give more images"
            )
        card = replace(card, threshold=recall_threshold(scores.score[defective], recall))
    low = float(np.quantile(scores.evidence[~defective if card.sound is not None else defective], 0.5))
    high = float(np.quantile(scores.evidence[defective].reshape(int(defective.sum()), -1).max(1), 0.5))
    return replace(card, heat_low=low, heat_high=max(high, low + 1e-6))


def fit_temperature(logits: Float64s, classes: NDArray[np.int64]) -> float:
    """Return what to divide logits by so that their log loss is least. Source: Guo et al. 2017 (arXiv:1706.04599)."""
    rows = np.arange(len(classes))
    losses = [-np.log(np.maximum(softmax(logits / t)[rows, classes], 1e-12)).mean() for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def recall_threshold(scores: Float64s, recall: float, confidence: float = CONFIDENCE) -> float:
    """Return the highest score at which alerting finds the wanted share of defects to come, as sure as can be.

    Of n defects, alerting from the j-th smallest score on misses less than a share q of those to come with the
    probability that a binomial of n and q is at least j: an order statistic as a tolerance limit (Wilks 1941). With too
    few defects for any j to be that sure, the smallest score of all is taken.

    Args:
        scores: (n,) of images with a defect, held back from training.
        recall: share to be found, above 0 and below 1.
        confidence: how sure, above 0 and below 1.

    >>> recall_threshold(np.arange(1000) / 1000, recall=0.9)  # 86 are missed, not 100
    0.087
    """
    in_order = np.sort(np.asarray(scores, np.float64))
    missed, below = 0, _binomial(0, in_order.size, 1 - recall)  # below: probability of at most `missed`
    while missed + 1 < in_order.size and 1 - below >= confidence:
        missed += 1
        below += _binomial(missed, in_order.size, 1 - recall)
    return float(in_order[max(missed - 1, 0)])


def _binomial(k: int, n: int, q: float) -> float:
    """Return the probability of k of n."""
    chosen = lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
    return exp(chosen + k * log(q) + (n - k) * log1p(-q))
