"""Labels that come from a field of the event itself, held back until they would have been known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.inputs import Judged, Ledger
from pipeline.row_columns import RowColumns

Int64s = NDArray[np.int64]


class LabelQueue:
    """The labels of past events that are not known yet, by when they will be.

    A label is told just before the first event after its own that is at or past the time it is known: this depends on
    the events alone, not on how they are cut into commits.

    Args:
        field: of the event that holds its label; null means that there is none.
        delay_ms: how long after the event it is known.
    """

    def __init__(self, field: str, delay_ms: int) -> None:
        self._field, self._delay_ms = field, delay_ms
        self._known_ms, self._values = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._ids = np.zeros(0, np.uint64)

    def take(self, main: Judged, columns: RowColumns) -> Judged:
        """Add the labels of a commit's events, and return those that are told within it, in order."""
        numbers = main.columns.number(self._field)
        there = ~np.isnan(numbers)
        times_ms = main.applied_times_ms
        known_ms = np.concatenate([self._known_ms, times_ms[there] + self._delay_ms])
        values = np.concatenate([self._values, numbers[there].astype(np.int64)])
        ids = np.concatenate([self._ids, main.ids[there]])
        after = np.concatenate([np.full(self._ids.size, -1), np.flatnonzero(there)])
        order = np.argsort(known_ms, kind="stable")
        known_ms, values, ids = known_ms[order], values[order], ids[order]
        before = first_at_or_past(times_ms, known_ms, after[order])
        due = before < times_ms.size
        self._known_ms, self._values, self._ids = known_ms[~due], values[~due], ids[~due]
        told = np.flatnonzero(due)[np.argsort(before[due], kind="stable")]
        count = told.size
        return Judged(
            known_ms[told], known_ms[told], np.ones(count, np.bool_), columns, np.arange(count), ids[told],
            Ledger(taken=count, applied=count), [], values[told], np.flatnonzero(main.applied)[before[told]],
        )  # fmt: skip

    def save(self) -> dict[str, NDArray[np.generic]]:
        """Return the state as named arrays."""
        return {"known_ms": self._known_ms, "values": self._values, "ids": self._ids}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take the state from what `save` returned."""
        self._known_ms, self._values = np.array(arrays["known_ms"], np.int64), np.array(arrays["values"], np.int64)
        self._ids = np.array(arrays["ids"], np.uint64)


def first_at_or_past(times_ms: Int64s, bounds_ms: Int64s, after: Int64s) -> Int64s:
    """Return, for each bound, the first row after row `after` with a time at or past it; the number of rows if none."""
    found = np.searchsorted(np.maximum.accumulate(times_ms), bounds_ms, side="left")
    for each in np.flatnonzero(found <= after).tolist():  # others were there already when its event came, out of order
        row = int(after[each]) + 1
        while row < times_ms.size and times_ms[row] < bounds_ms[each]:
            row += 1
        found[each] = row
    return found
