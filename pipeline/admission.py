"""Judges the records of one stream in log order: applied, future, late or duplicate. Holds high time and recent ids."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kernels import admission
from kernels.admission import APPLIED, DUPLICATE, FUTURE, LATE
from pipeline.copies import TableCopy, restored_table, whole_of

Int64s = NDArray[np.int64]
CAUSES = {FUTURE: "future", LATE: "late", DUPLICATE: "duplicate"}
IDS_MIN = 16_384  # buckets; the table of a slow stream is rebuilt every some thousand events
_START_MS = -(2**62)
_NO_TIMES = np.zeros(0, np.int64)


class Admission:
    """The judgement of one stream and partition; a pure function of its records in order.

    Args:
        lateness_ms: how far behind high time an event may be.
        future_tolerance_ms: how far ahead of its append time.
    """

    def __init__(self, lateness_ms: int, future_tolerance_ms: int) -> None:
        self._limits = np.array([lateness_ms, lateness_ms, future_tolerance_ms], np.int64)
        self._ctl = np.array([_START_MS, 0], np.int64)
        self._ids, self._times = np.zeros(IDS_MIN, np.uint64), np.zeros(IDS_MIN, np.int64)
        self._copy: TableCopy | None = None  # in progress

    @property
    def high_ms(self) -> int:
        """The largest event time applied so far; far in the past before the first."""
        return int(self._ctl[0])

    @property
    def floor_ms(self) -> int:
        """The oldest event time that is not late."""
        return self.high_ms - int(self._limits[0])

    def judge(
        self, times_ms: Int64s, ids: NDArray[np.uint64], append_ms: Int64s | None, redriven: NDArray[np.uint64] | None
    ) -> tuple[NDArray[np.int8], Int64s]:
        """Return (records,) APPLIED, FUTURE, LATE or DUPLICATE, and the floor after each record.

        `redriven` holds a hash of where a re-driven dead letter came from, 0 for an ordinary record.
        """
        if self._copy is not None:
            self._copy.before(ids if redriven is None else np.concatenate([ids, redriven[redriven != 0]]))
        count = times_ms.size
        status, floors = np.zeros(count, np.int8), np.zeros(count, np.int64)
        append_ms = _NO_TIMES if append_ms is None else append_ms
        redriven = np.zeros(count, np.uint64) if redriven is None else redriven
        done = 0
        while done < count:
            done = admission.judge(
                times_ms,
                append_ms,
                ids,
                redriven,
                self._ctl,
                self._ids,
                self._times,
                self._limits,
                status,
                floors,
                done,
            )
            if done < count:
                self._rebuild()
        return status, floors

    def _rebuild(self) -> None:
        """Forget ids beyond the horizon, in a table with room for as many again."""
        if self._copy is not None:
            self._copy.finish()
        oldest = self.high_ms - int(self._limits[1])
        kept = int(((self._ids != 0) & (self._times >= oldest)).sum())
        size = IDS_MIN
        while size < 8 * kept:
            size *= 2
        ids, times = np.zeros(size, np.uint64), np.zeros(size, np.int64)
        self._ctl[1] = admission.keep_recent(self._ids, self._times, oldest, ids, times)
        self._ids, self._times = ids, times

    def copy(self, whole: bool = True) -> TableCopy:
        """Begin a copy of the state as of now."""
        ended = partial(setattr, self, "_copy", None)
        self._copy = TableCopy(self._ids, self._times.reshape(-1, 1), self._ctl, ended)
        return self._copy

    def save(self) -> dict[str, NDArray[np.generic]]:
        """Return the state as named arrays."""
        return whole_of(self.copy())

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take the state from what `save` returned."""
        self._ids, times, self._ctl = restored_table(arrays, 1)
        self._times = times.reshape(-1)


__all__ = ["APPLIED", "CAUSES", "DUPLICATE", "FUTURE", "LATE", "Admission"]
