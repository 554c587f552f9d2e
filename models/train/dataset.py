"""Which events train, which validate, and which negatives an epoch sees: a function of its arguments alone."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.features import FeatureSpec
from models.train.settings import above_zero


@dataclass(frozen=True)
class Sampling:
    """Which events train and which validate.

    Attributes:
        batch: events in a forward pass.
        accumulate: forward passes per optimizer step.
        negatives_per_positive: negatives drawn anew each epoch for each positive; 0 takes all of them.
        positive_weight: weight of a positive in the loss. It and the drawing are both taken out of the logit again.
        validation_share: the last part of the time range, for early stopping.
        validation_negatives_max: negatives looked at in validation; each then counts for several.
        seed: of what is drawn.
    """

    batch: int = 512
    accumulate: int = 1
    negatives_per_positive: float = 10.0
    positive_weight: float = 1.0
    validation_share: float = 0.15
    validation_negatives_max: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        above_zero(self, may_be_zero=("negatives_per_positive", "seed"))
        if self.validation_share >= 1:
            raise ValueError(f"validation_share is {self.validation_share}; choose a share below 1")


@dataclass(frozen=True)
class Dataset:
    """Events split by time, with the sampling of negatives.

    Attributes:
        features: (events, columns) float64, NaN is null.
        labels: (events,) uint8.
        positives: rows of training positives.
        negatives: rows of training negatives.
        validation: rows of the validation part, all later than those that train.
        validation_weights: (validation,) how many events each of them stands for.
        split_ms: event time at which validation begins.
        digest: sha256 over features, labels, times and columns.
    """

    features: NDArray[np.float64]
    labels: NDArray[np.uint8]
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]
    validation: NDArray[np.int64]
    validation_weights: NDArray[np.float64]
    split_ms: int
    digest: str

    def kept_share(self, sampling: Sampling) -> float:
        """Share of training negatives that an epoch sees."""
        if sampling.negatives_per_positive == 0:
            return 1.0
        return min(1.0, math.ceil(len(self.positives) * sampling.negatives_per_positive) / len(self.negatives))

    def epoch_rows(self, sampling: Sampling, epoch: int) -> NDArray[np.int64]:
        """Draw the rows of an epoch in training order: all positives and a fresh sample of negatives."""
        chance = np.random.default_rng([sampling.seed, epoch])
        kept = round(self.kept_share(sampling) * len(self.negatives))
        negatives = chance.choice(self.negatives, kept, replace=False) if kept < len(self.negatives) else self.negatives
        return chance.permutation(np.concatenate([self.positives, negatives]))

    def training_rows(self) -> NDArray[np.int64]:
        """All rows before the split, in the order given."""
        return np.sort(np.concatenate([self.positives, self.negatives]))


def prepare(
    features: NDArray[np.float64],
    specs: Sequence[FeatureSpec],
    labels: NDArray[np.uint8],
    times_ms: NDArray[np.int64],
    sampling: Sampling,
) -> Dataset:
    """Check the arrays and split them: the last `validation_share` of the events by time validate.

    Events of one millisecond are never split.

    Raises:
        ValueError: shapes differ, a value is infinite, a label is neither 0 nor 1, or a part lacks one of the classes.
    """
    features, labels, times_ms = np.asarray(features, np.float64), np.asarray(labels), np.asarray(times_ms, np.int64)
    _check(features, specs, labels, times_ms)
    labels = np.ascontiguousarray(labels, np.uint8)
    in_time = np.sort(times_ms)
    split_ms = int(in_time[min(len(in_time) - 1, int(len(in_time) * (1 - sampling.validation_share)))])
    earlier = times_ms < split_ms
    positives, negatives = (np.flatnonzero(earlier & (labels == label)) for label in (1, 0))
    later_positives, later_negatives = (np.flatnonzero(~earlier & (labels == label)) for label in (1, 0))
    for name, rows in (
        ("training part has no positive", positives),
        ("training part has no negative", negatives),
        ("validation part has no positive", later_positives),
        ("validation part has no negative", later_negatives),
    ):
        if not rows.size:
            raise ValueError(f"the {name} event ({len(labels)} events, {int(labels.sum())} positive); give more data")
    seen = later_negatives
    if seen.size > sampling.validation_negatives_max:
        chance = np.random.default_rng([sampling.seed, 1 << 32])
        seen = np.sort(chance.choice(seen, sampling.validation_negatives_max, replace=False))
    weights = np.concatenate([np.ones(later_positives.size), np.full(seen.size, later_negatives.size / seen.size)])
    validation = np.concatenate([later_positives, seen])
    digest = _digest(features, specs, labels, times_ms)
    return Dataset(features, labels, positives, negatives, validation, weights, split_ms, digest)


def _check(
    features: NDArray[np.float64], specs: Sequence[FeatureSpec], labels: NDArray, times_ms: NDArray[np.int64]
) -> None:
    if features.ndim != 2 or features.shape[1] != len(specs):
        raise ValueError(f"features are {features.shape}; the specs ask for (events, {len(specs)})")
    for name, array in (("labels", labels), ("times_ms", times_ms)):
        if array.shape != features.shape[:1]:
            raise ValueError(f"{name} are {array.shape}; there are {len(features)} events, so give ({len(features)},)")
    infinite = np.argwhere(np.isinf(features))
    if infinite.size:
        row, column = infinite[0]
        raise ValueError(
            f"feature {specs[column].name!r} of event {row} is {features[row, column]}; use NaN for a value not known"
        )
    wrong = np.flatnonzero((labels != 0) & (labels != 1))
    if wrong.size:
        raise ValueError(f"the label of event {wrong[0]} is {labels[wrong[0]]}; a label is 0 or 1")


def _digest(
    features: NDArray[np.float64], specs: Sequence[FeatureSpec], labels: NDArray[np.uint8], times_ms: NDArray[np.int64]
) -> str:
    digest = hashlib.sha256(repr(tuple(specs)).encode())
    for array in (features, labels, times_ms):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
