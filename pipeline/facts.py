"""Joins labels to the events they are about, as of when they were known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kernels import joins
from pipeline.copies import TableCopy, restored_table, whole_of

Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]


@dataclass(frozen=True)
class Facts:
    """What became known at each operation: (operations,) made; (operations, 4) event time, known time, value, weight;
    (operations, keys) the event's keys."""

    made: NDArray[np.int8]
    fact: Int64s
    keys: UInt64s


class FactJoin:
    """Events and labels of one stream by event id; a pure function of the operations in order.

    Args:
        keys: how many keys of an event are kept for the windows over facts.
        horizon_ms: how long after an event its label still counts.
    """

    def __init__(self, keys: int, horizon_ms: int) -> None:
        self._keys, self._horizon_ms = keys, horizon_ms
        self._table = np.zeros(1024, np.uint64)
        self._rows = np.zeros((1024, joins.KEYS + keys), np.int64)
        self._ctl = np.zeros(6, np.int64)
        self._copy: TableCopy | None = None  # in progress

    def join(self, is_label: NDArray[np.int8], ids: UInt64s, facts: Int64s, keys: UInt64s, floors_ms: Int64s) -> Facts:
        """Apply operations in merged order; arrays as in `kernels.joins.join`."""
        if self._copy is not None:
            self._copy.before(ids)
        count = ids.size
        made, fact = np.zeros(count, np.int8), np.zeros((count, 4), np.int64)
        fact_keys = np.zeros((count, self._keys), np.uint64)
        done = 0
        while done < count:
            done = joins.join(
                is_label, ids, facts, keys, floors_ms, self._table, self._rows, self._ctl, self._horizon_ms,
                made, fact, fact_keys, done,
            )  # fmt: skip
            if done < count:
                self._rebuild(int(floors_ms[done]) - self._horizon_ms)
        return Facts(made, fact, fact_keys)

    def _rebuild(self, oldest_ms: int) -> None:
        if self._copy is not None:
            self._copy.finish()
        used = (self._table != 0) & (self._rows[:, joins.STAGE] != 0)
        live = int((used & (self._rows[:, joins.TIME_MS] > oldest_ms)).sum())
        size = 1024
        while size < 3 * live:
            size *= 2
        table, rows = np.zeros(size, np.uint64), np.zeros((size, self._rows.shape[1]), np.int64)
        self._ctl[joins.USED] = joins.keep_open(self._table, self._rows, oldest_ms, self._ctl, table, rows)
        self._table, self._rows = table, rows

    def counts(self) -> dict[str, int]:
        """Return how many labels are joined, waiting, unmatched, superseded and duplicate."""
        names = ("joined", "waiting", "unmatched", "superseded", "duplicate")
        return dict(zip(names, (int(each) for each in self._ctl[joins.JOINS :]), strict=True))

    def copy(self, whole: bool = True) -> TableCopy:
        """Begin a copy of the state as of now."""
        self._copy = TableCopy(self._table, self._rows, self._ctl, partial(setattr, self, "_copy", None))
        return self._copy

    def save(self) -> dict[str, NDArray[np.generic]]:
        """Return the state as named arrays."""
        return whole_of(self.copy())

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take the state from what `save` returned."""
        self._table, self._rows, self._ctl = restored_table(arrays, self._rows.shape[1])
