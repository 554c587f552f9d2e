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

    Args:
        field: of the event that holds its label; null means that there is none.
        delay_ms: how long after the event it is known.
    """

    def __init__(self, field: str, delay_ms: int) -> None:
        self._field, self._delay_ms = field, delay_ms
        self._known_ms, self._values = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._ids = np.zeros(0, np.uint64)

    def take(self, main: Judged, columns: RowColumns) -> Judged:
        """Add the labels of a commit's events, and return those known before the newest of them, in order."""
        numbers = main.columns.number(self._field)
        there = ~np.isnan(numbers)
        times_ms = main.applied_times_ms
        known_ms = np.concatenate([self._known_ms, times_ms[there] + self._delay_ms])
        values = np.concatenate([self._values, numbers[there].astype(np.int64)])
        ids = np.concatenate([self._ids, main.ids[there]])
        order = np.argsort(known_ms, kind="stable")
        known_ms, values, ids = known_ms[order], values[order], ids[order]
        due = int(np.searchsorted(known_ms, times_ms.max(), side="left")) if times_ms.size else 0
        self._known_ms, self._values, self._ids = known_ms[due:], values[due:], ids[due:]
        taken = known_ms[:due]
        ledger = Ledger(taken=due, applied=due)
        return Judged(
            taken, taken, np.ones(due, np.bool_), columns, np.arange(due), ids[:due], ledger, [], values[:due]
        )

    def save(self) -> dict[str, NDArray[np.generic]]:
        """Return the state as named arrays."""
        return {"known_ms": self._known_ms, "values": self._values, "ids": self._ids}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take the state from what `save` returned."""
        self._known_ms, self._values = np.array(arrays["known_ms"], np.int64), np.array(arrays["values"], np.int64)
        self._ids = np.array(arrays["ids"], np.uint64)
