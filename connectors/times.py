"""Event times in the unit that a stream declares, as milliseconds since the epoch."""

import numpy as np
from numpy.typing import NDArray

from connectors.checks import LATEST_MS

_OUTSIDE = LATEST_MS + 1


def whole_times_ms(values: NDArray[np.int64], unit: str) -> NDArray[np.int64]:
    """Turn (n,) int64 of "ms", "s" or "us" into milliseconds, rounded down; what is too large stays too large."""
    if unit == "us":
        return values // 1000
    if unit == "s":
        return np.clip(values, -1, _OUTSIDE) * 1000
    return values


def broken_times_ms(values: NDArray[np.float64], unit: str) -> NDArray[np.int64]:
    """Turn (n,) float64 of "ms", "s" or "us" into milliseconds, rounded down; NaN becomes -1, so out of range.

    Seconds are rounded to microseconds first: 1.001 s is 1001 ms, though 1.001 * 1000 is a little less.
    """
    with np.errstate(over="ignore"):
        ms = np.rint(values * 1e6) / 1000 if unit == "s" else values / 1000 if unit == "us" else values
    return np.clip(np.nan_to_num(np.floor(ms), nan=-1, posinf=_OUTSIDE), -1, _OUTSIDE).astype(np.int64)
