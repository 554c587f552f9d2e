"""Fixed statistics of training data: where a number usually lies, and the edges of its quantile bins."""

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]

TAIL = 6.2  # log odds of the outermost quantiles, 0.2 % and 99.8 %
NORMAL_QUARTILES = 1.349  # the distance between the quartiles of a normal distribution, in standard deviations


def fit_scaling(numbers: Float64s, bins: int) -> Float64s:
    """Find centre, scale and bin edges per column, from data that will not be seen again.

    The centre is the median; the scale is the distance between the quartiles over 1.349, or the standard deviation
    where most values are equal, or 1 where all are. Edges lie at quantiles that are evenly spaced in log odds, from
    0.2 % to 99.8 %, so that there are many in the tails, where rare events are. Where one value fills many of them (a
    count that is mostly 0), the rest are taken from the quantiles of the other values.

    Args:
        numbers: (n, c) float64; NaN and infinite values are left out.
        bins: how many bins a number falls into, 1 or more.

    Returns:
        (c, 2 + bins - 1) float64: centre, scale above zero, rising edges, padded with infinity.
    """
    scaling = np.full((numbers.shape[1], 1 + bins), np.inf)
    scaling[:, 0], scaling[:, 1] = 0.0, 1.0
    for j in range(numbers.shape[1]):
        values = numbers[:, j]
        values = values[np.isfinite(values)]
        if not values.size:
            continue
        low, scaling[j, 0], high = np.quantile(values, [0.25, 0.5, 0.75])
        scale = (high - low) / NORMAL_QUARTILES
        if not scale > 0:
            scale = float(np.std(values / max(1.0, np.abs(values).max()))) * max(1.0, float(np.abs(values).max()))
        scaling[j, 1] = scale if np.isfinite(scale) and scale > 0 else 1.0
        edges = _edges(values, bins - 1)
        scaling[j, 2 : 2 + len(edges)] = edges
    return scaling


def _edges(values: Float64s, wanted: int) -> Float64s:
    inner = 1 / (1 + np.exp(-np.linspace(-TAIL, TAIL, wanted))) if wanted > 1 else np.full(wanted, 0.5)
    edges = _distinct(np.quantile(values, inner, method="higher"), values)
    distinct, counts = np.unique(values, return_counts=True)
    others = values[values != distinct[counts.argmax()]]
    if len(edges) < wanted and others.size:
        missing = np.linspace(0, 1, wanted - len(edges) + 2)[1:-1]
        edges = _distinct(np.concatenate([edges, np.quantile(others, missing, method="higher")]), values)
    return edges[:wanted]


def _distinct(edges: Float64s, values: Float64s) -> Float64s:
    found = np.unique(edges)
    kept: Float64s = found[found > values.min()]  # an edge at the least value would leave the bin below it empty
    return kept
