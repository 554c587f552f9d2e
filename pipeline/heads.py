"""How far several inputs may be taken before one of them must be read on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.timeline import merged_order

Int64s = NDArray[np.int64]


def rows_to_take(times_ms: Sequence[Int64s], has_more: Sequence[bool]) -> list[int]:
    """Return how many rows of each input come, in merged order, before the head of any input is unknown.

    Args:
        times_ms: the event times of the rows at hand, per input.
        has_more: whether an input goes on behind its rows at hand.
    """
    order = merged_order(times_ms)
    starts = np.concatenate([[0], np.cumsum([each.size for each in times_ms])])
    source = np.searchsorted(starts[1:], order, side="right")
    cut = order.size
    for number, more in enumerate(has_more):
        if more:
            places = np.flatnonzero(source == number)
            cut = min(cut, int(places[-1]) + 1 if places.size else 0)
    return [int(each) for each in np.bincount(source[:cut], minlength=len(times_ms))]
