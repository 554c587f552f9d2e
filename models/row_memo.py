"""Scores of rows that were asked before: reasons ask for the same typical rows again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
ROWS_KEPT = 16_384


class RowMemo:
    """Asks for each different row once, and forgets what was not asked for longest.

    Exact: a row is known by its bits. Any thread may call; two that ask for the same new row at once both compute it.

    Args:
        score_many: (m, f) rows to (m,) scores, each by its row alone.
        rows_kept: at most; 336 bytes each for 42 features, and about as much again.
    """

    def __init__(self, score_many: Callable[[Float64s], Float64s], rows_kept: int = ROWS_KEPT) -> None:
        self._score_many, self._rows_kept = score_many, rows_kept
        self._known: dict[bytes, float] = {}  # in the order of the last use
        self._lock = threading.Lock()

    def __call__(self, rows: Float64s) -> Float64s:
        """Return the (n,) scores of (n, f) rows."""
        rows = np.ascontiguousarray(rows)
        keys = [row.tobytes() for row in rows]
        with self._lock:
            found = {key: self._known.pop(key) for key in dict.fromkeys(keys) if key in self._known}
            self._known |= found
        new = {key: at for at, key in enumerate(keys) if key not in found}
        if new:
            found |= zip(new, self._score_many(rows[list(new.values())]).tolist(), strict=True)
            with self._lock:
                self._known |= {key: found[key] for key in new}
                for key in list(self._known)[: max(len(self._known) - self._rows_kept, 0)]:
                    del self._known[key]
        return np.array([found[key] for key in keys])
