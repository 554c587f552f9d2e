"""Where the pieces of a number's piecewise-linear code begin and end, learned from training data."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.moe.tokens import TokenPlan

SMALLEST_PIECE = 1e-4  # of a typical spread: narrower pieces only amplify rounding
LARGEST_Z = 1e6  # spreads from the median; values farther out look alike, and their squares stay finite in float32
FEWEST_POSITIVES = 20  # with fewer, their quantiles are noise


@dataclass(frozen=True)
class NumberCode:
    """Scale and pieces of m numeric inputs.

    Attributes:
        shift: (m,) median, float64: subtracted before anything is rounded to float32.
        scale: (m,) one over the typical spread, float64.
        lower: (m, bins) lower edge of each piece, in spreads from the median, float32.
        slope: (m, bins) one over the width of each piece, 0 for pieces that are not needed, float32.
    """

    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    lower: NDArray[np.float32]
    slope: NDArray[np.float32]


def learn_code(columns: list[NDArray[np.float64]], labels: list[NDArray[np.uint8]], bins: int) -> NumberCode:
    """Learn scale and pieces of each input from its values.

    Half of the edges are quantiles of all values, half are quantiles of the values of positive events: with 1 % of
    frauds, quantiles of all would give the tail where the frauds are a single piece. NaN is left out; an input without
    any value, or with one value only, gets a code that says nothing.

    Args:
        columns: m arrays, (values,) each, of different lengths where a sequence channel pools its steps.
        labels: m arrays, 1 where the value belongs to a positive event.
        bins: pieces at most.

    Source: PLE of Gorishniy, Rubachev, Babenko 2022 (arXiv:2203.05556), section 3.2.
    """
    m = len(columns)
    code = NumberCode(np.zeros(m), np.ones(m), np.zeros((m, bins), np.float32), np.zeros((m, bins), np.float32))
    for i, (values, label) in enumerate(zip(columns, labels, strict=True)):
        known = np.isfinite(values)
        values, positive = values[known], values[known & (label == 1)]
        if not values.size:
            continue
        code.shift[i] = np.median(values)
        code.scale[i] = 1 / _spread(values)
        z = np.clip((values - code.shift[i]) * code.scale[i], -LARGEST_Z, LARGEST_Z)
        edges = _edges(z, bins + 1)
        if positive.size >= FEWEST_POSITIVES:
            z_positive = np.clip((positive - code.shift[i]) * code.scale[i], -LARGEST_Z, LARGEST_Z)
            of_positives = (bins + 1) // 2
            edges = np.union1d(_edges(z, bins + 1 - of_positives), _edges(z_positive, of_positives))
        edges = _apart(edges)
        code.lower[i, : len(edges) - 1] = edges[:-1]
        code.slope[i, : len(edges) - 1] = 1 / np.diff(edges)
    return code


def number_columns(
    features: NDArray[np.float64], labels: NDArray[np.uint8], plan: TokenPlan, kinds: list[str]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.uint8]]]:
    """Collect the values of each numeric input in the encoder's order: groups first, then channels over all steps."""
    columns, labels_of = [], []
    for group in plan.groups:
        for column in group:
            if kinds[column] == "number":
                columns.append(features[:, column])
                labels_of.append(labels)
    for channel in plan.channels:
        if channel.kind == "number":
            declared = [column for column in channel.columns if column is not None]
            columns.append(features[:, declared].T.ravel())
            labels_of.append(np.tile(labels, len(declared)))
    return columns, labels_of


def _edges(z: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    return np.unique(np.quantile(z, np.linspace(0, 1, count)))


def _apart(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    apart = [edges[0]]
    for edge in edges[1:]:
        if edge - apart[-1] >= SMALLEST_PIECE * max(1.0, abs(edge)):
            apart.append(edge)
    return np.array(apart)


def _spread(values: NDArray[np.float64]) -> float:
    """Interquartile range; where it is 0 (most counts are 0 for most events) the mean distance from the median."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    spread = float(high - low)
    if spread == 0:
        with np.errstate(over="ignore"):
            spread = float(np.mean(np.abs(values - middle)))
    return spread if np.isfinite(spread) and spread > 1e-12 * abs(float(middle)) else 1.0
