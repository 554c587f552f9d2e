"""What an answer of some models costs: timed when they are loaded, for choosing among them when time is short."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

MANY = 64  # rows of the larger batch that is timed
TRIES = 5  # of each size, of which the quickest counts: what disturbs a measurement makes it longer


class RungCost(NamedTuple):
    """Seconds of a batch: `fixed_s` for whatever it holds, `row_s` for each row."""

    fixed_s: float
    row_s: float

    def seconds(self, rows: int) -> float:
        """Return what a batch of that many rows costs.

        >>> RungCost(0.001, 0.0001).seconds(10)
        0.002
        """
        return self.fixed_s + self.row_s * rows


def time_rung(answer: Callable[[int], object], timer_s: Callable[[], float], many: int = MANY) -> RungCost:
    """Time a function that answers a number of made-up rows: one of them, and many at once.

    Args:
        answer: called with how many rows to answer.
        timer_s: seconds of a clock that never goes back.
        many: rows of the larger batch, above 1.
    """
    best = []
    for rows in (1, many):
        answer(rows)  # the first run of a size plans memory
        took = []
        for _ in range(TRIES):
            began_s = timer_s()
            answer(rows)
            took.append(timer_s() - began_s)
        best.append(min(took))
    row_s = max(best[1] - best[0], 0.0) / (many - 1)
    return RungCost(max(best[0] - row_s, 0.0), max(row_s, 1e-9))
