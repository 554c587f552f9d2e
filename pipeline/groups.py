"""The window state of one key of one stream: grows it, runs the kernels over batches, saves and restores it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kernels import window_state as ws
from kernels import windows
from kernels.window_features import TOP_MAX
from pipeline.copies import GroupCopy, restored_group, whole_of

Int64s = NDArray[np.int64]
Float64s = NDArray[np.float64]
POOL_BYTES = 256 << 20  # reserved, not used: the system gives memory when it is written to, and growing copies


class Group:
    """Windows over the events of one stream, by one key.

    The group is a pure function of the operations it was given, in order; see `kernels.windows.update`.
    """

    def __init__(self, plan: ws.Plan, meta_columns: int) -> None:
        self.plan = plan
        self._meta_columns = meta_columns
        self._plan = tuple(plan)
        width = int(plan.shape[ws.WIDTH])
        self.state = ws.empty_state(meta_columns, width, rows=POOL_BYTES // (8 * width))
        rows = max(int(plan.shape[ws.ROWS_MAX]), 2 * TOP_MAX)
        self._scratch = (np.zeros((len(plan.windows), 2), np.int64), np.zeros(rows + 1, np.int64))
        self._copy: GroupCopy | None = None  # in progress
        self._known = np.zeros(0, np.uint64)  # marks of the keys in the copy that was stored last
        self._unswept = 0  # operations since keys could be freed

    @property
    def features(self) -> int:
        """How many features the group computes."""
        return len(self.plan.program)

    def update(
        self, kinds: NDArray[np.int8], keys: NDArray[np.uint64], times: Int64s, values: Int64s, floor_ms: int
    ) -> Float64s:
        """Apply a batch of operations and return the features, (operations, features), of the queries among them.

        `floor_ms` is the oldest time that an event not late could still have after this batch; keys of which no
        window can see an event any more are freed by it.
        """
        if self._copy is not None:
            self._copy.before(keys)
        out = np.empty((kinds.size, self.features))
        if not (kinds & windows.QUERY).all():  # the others' rows are not written
            out.fill(np.nan)
        while code := windows.update(tuple(self.state), self._plan, kinds, keys, times, values, out, *self._scratch):
            self._grow(code)
        self._unswept += kinds.size
        if self._copy is None:
            self._sweep(floor_ms, self._unswept)
            self._unswept = 0
        return out

    def _sweep(self, floor_ms: int, operations: int) -> None:
        windows.sweep(tuple(self.state), self._plan, floor_ms, operations // 4 + 16)

    def look(self, key: int, time_ms: int, floor_ms: int) -> tuple[int, Float64s]:
        """Return how many events a key has, -1 if none, and its features as of a time, without an event of its own."""
        out = np.full((1, self.features), np.nan)
        values = np.zeros((1, max(self.inputs, 1)), np.int64)
        hashed = np.uint64(key)
        while (
            rows := windows.look(tuple(self.state), self._plan, hashed, time_ms, floor_ms, values, out, *self._scratch)
        ) == -2:
            self._grow(windows.GROW_COUNTS)
        return rows, out[0]

    @property
    def inputs(self) -> int:
        """How many input columns an operation has."""
        columns = self.plan.columns
        return int((columns[:, 0] + columns[:, 2]).max()) + 1 if len(columns) else 0

    def _grow(self, code: int) -> None:
        state = self.state
        if code == windows.GROW_POOL:
            pool = np.empty((2 * state.pool.shape[0], state.pool.shape[1]), np.int64)
            pool[: state.pool.shape[0]] = state.pool
            self.state = state._replace(pool=pool)
        elif code == windows.GROW_SLOTS:
            slots = 2 * state.slot_key.size
            table = np.zeros(2 * slots, np.int64)
            windows.rehash(state.table, state.slot_key, table)
            meta = np.zeros((slots, state.meta.shape[1]), np.int64)
            meta[: state.meta.shape[0]] = state.meta
            self.state = state._replace(table=table, meta=meta, slot_key=np.resize(state.slot_key, slots))
        else:
            count_key = np.zeros(2 * state.count_key.size, np.uint64)
            count_n = np.zeros(2 * state.count_n.size, np.int64)
            windows.recount(state.count_key, state.count_n, count_key, count_n)
            self.state = state._replace(count_key=count_key, count_n=count_n)

    def statistics(self) -> dict[str, int]:
        """Return sizes and counts for metrics: keys, rows, bytes, keys capped."""
        ctl = self.state.ctl
        return {
            "keys": int(ctl[ws.KEYS_LIVE]),
            "rows": int(ctl[ws.ROWS_LIVE]),
            "rows_capped": int(ctl[ws.ROWS_CAPPED]),
            "keys_freed": int(ctl[ws.KEYS_FREED]),
            "bytes": int(sum(a.nbytes for a in self.state) - self.state.pool[int(ctl[ws.POOL_USED]) :].nbytes),
        }

    def copy(self, whole: bool) -> GroupCopy:
        """Begin a copy of the state as of now; only what changed since the last one that was stored, unless `whole`."""
        known = np.zeros(0, np.uint64) if whole else self._known
        self._copy = GroupCopy(lambda: self.state, self._plan, known, self._keep, partial(setattr, self, "_copy", None))
        return self._copy

    def _keep(self, marks: NDArray[np.uint64]) -> None:
        self._known = marks

    def save(self) -> dict[str, NDArray[np.generic]]:
        """Return the whole state as named arrays."""
        return whole_of(self.copy(whole=True))

    def restore(self, arrays: Mapping[str, NDArray[np.generic]], *older: Mapping[str, NDArray[np.generic]]) -> None:
        """Take the state from what `save` returned, or from copies, newest first, of which the last one is whole.

        Raises:
            ValueError: the arrays belong to other features.
        """
        width = int(self.plan.shape[ws.WIDTH])
        self.state = restored_group(
            self._plan, [arrays, *older], self._meta_columns, width, POOL_BYTES // (8 * width)
        )  # fmt: skip
