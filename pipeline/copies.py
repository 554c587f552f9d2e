"""Copies of state as of one moment, made in steps of a fraction of a millisecond while batches go on.

Before a batch changes what is not copied yet, that is copied first: so a copy costs each batch no more than what the
batch touches, and the rest is copied between batches. See `kernels.window_copies` and `kernels.table_copies`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kernels import table_copies, window_copies
from kernels import window_state as ws

Array = NDArray[np.generic]
Arrays = dict[str, Array]
Pieces = dict[str, list[Array]]
Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]
PIECE_BYTES = 4 << 20
EVENTS_AT_ONCE = 2048  # about 100 kB
BUCKETS_AT_ONCE = 16_384


class Stateful(Protocol):
    """A part of an engine whose state can be saved and restored."""

    def save(self) -> Arrays:
        """Return the state as named arrays, which nothing changes any more."""

    @property
    def restore(self) -> Callable[..., None]:
        """Takes the state from what `save` returned; of parts copied in layers from all of them, newest first."""


@runtime_checkable
class Copyable(Stateful, Protocol):
    """A part that is large enough to be copied in steps."""

    def copy(self, whole: bool) -> Copy:
        """Begin a copy of the state as of now; only what changed since the last one that was stored, unless `whole`."""


class Copy(Protocol):
    """A copy in progress."""

    def step(self, most: int | None = None) -> bool:
        """Copy a little more, about `most` events or entries; True if nothing is left."""

    def end(self) -> None:
        """Let the state go, whether or not all of it is copied."""

    def arrays(self) -> Pieces:
        """Hand out what was copied, once: named arrays, in pieces along their first axis."""

    def keep(self) -> None:
        """The copy is stored: the next one may be only what changed since."""


class Held:
    """A copy of a part that hands out its state at once."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays

    def step(self, most: int | None = None) -> bool:
        """Nothing is left."""
        return True

    def end(self) -> None:
        """Nothing to let go."""

    def arrays(self) -> Pieces:
        """Hand out the part's arrays."""
        return {name: [array] for name, array in self._arrays.items()}

    def keep(self) -> None:
        """Nothing to remember."""


class TableCopy:
    """A copy of a hash table by id.

    Args:
        table: (buckets,) ids, 0 is empty.
        rows: (buckets, columns) what is kept of each.
        ctl: counters.
        ended: called once it lets the table go.
        piece_bytes: about how large its pieces are.
    """

    def __init__(
        self, table: UInt64s, rows: Int64s, ctl: Int64s, ended: Callable[[], None], piece_bytes: int = PIECE_BYTES
    ) -> None:
        self._table, self._rows, self._ctl, self._ended = table, rows, ctl.copy(), ended
        self._taken = np.zeros(table.size, np.uint8)
        self._at = np.zeros(table_copies.AT_SIZE, np.int64)
        self._entries = max(min(piece_bytes // (8 * rows.shape[1]), table.size), 1)
        self._pieces: list[tuple[UInt64s, Int64s]] = []
        self._next_piece()

    def _next_piece(self) -> None:
        self._trim()
        self._pieces.append((np.empty(self._entries, np.uint64), np.empty((self._entries, self._rows.shape[1]), int)))
        self._at[table_copies.ENTRIES] = 0

    def _trim(self) -> None:
        """Cut what is empty off the piece that is being filled."""
        if self._pieces:
            count = int(self._at[table_copies.ENTRIES])
            ids, rows = self._pieces[-1]
            self._pieces[-1] = ids[:count], rows[:count]

    def step(self, most: int | None = None) -> bool:
        """Copy the next buckets."""
        code = table_copies.copy_next(
            self._table, self._rows, self._taken, *self._pieces[-1], self._at, most or BUCKETS_AT_ONCE
        )  # fmt: skip
        if code == table_copies.FULL:
            self._next_piece()
        return bool(code == table_copies.DONE)

    def before(self, ids: UInt64s) -> None:
        """Copy what is kept of ids that a batch may change."""
        done = 0
        while True:
            done = table_copies.copy_ids(self._table, self._rows, self._taken, *self._pieces[-1], self._at, ids, done)
            if done == ids.size:
                return
            self._next_piece()

    def finish(self) -> None:
        """Copy the rest at once: the table is about to be replaced, which takes as long."""
        while not self.step():
            pass
        self.end()

    def end(self) -> None:
        """Let the table go."""
        self._ended()

    def arrays(self) -> Pieces:
        """Hand out entries, counters and the size of the table."""
        self._trim()
        ids, rows = zip(*self._pieces, strict=True)
        self._pieces = []
        size = np.array([self._table.size])
        return {"ids": list(ids), "rows": list(rows), "ctl": [self._ctl], "size": [size]}

    def keep(self) -> None:
        """Nothing to remember: a table is always copied whole."""


def restored_table(arrays: Mapping[str, Array], columns: int) -> tuple[UInt64s, Int64s, Int64s]:
    """Return table, rows and counters of what `TableCopy.arrays` returned.

    Raises:
        ValueError: the arrays are not of a table with so many columns.
    """
    size, ids = int(arrays["size"][0]), np.require(arrays["ids"], np.uint64, ["C", "W"])
    rows = np.require(arrays["rows"], np.int64, ["C", "W"])
    if size < 1 or size & (size - 1) or rows.shape != (ids.size, columns):
        raise ValueError("the snapshot belongs to another app: a table has another shape")
    table, table_rows = np.zeros(size, np.uint64), np.zeros((size, columns), np.int64)
    if table_copies.put_back(table, table_rows, ids, rows) < 0:
        raise ValueError(f"the snapshot is of no use: {ids.size} entries in a table of {size}")
    return table, table_rows, np.array(arrays["ctl"], np.int64)


class GroupCopy:
    """A copy of a group's windows, key by key; while it lasts, no key is freed.

    Args:
        state: returns the group's arrays, which growing replaces.
        plan: its plan as a plain tuple.
        known: (slots,) marks of the copy that was stored last: keys that are as they were then are left out.
        keep: takes the marks of this copy once it is stored.
        ended: called once it lets the group go.
        piece_bytes: about how large its pieces are.
    """

    def __init__(
        self, state: Callable[[], ws.State], plan: tuple[NDArray, ...], known: UInt64s, keep: Callable[[UInt64s], None],
        ended: Callable[[], None], piece_bytes: int = PIECE_BYTES,
    ) -> None:  # fmt: skip
        self._state, self._plan, self._known, self._keep, self._ended = state, plan, known, keep, ended
        now = state()
        self._ctl = now.ctl.copy()
        limit = int(now.ctl[ws.SLOTS_USED])
        self._at = np.zeros(window_copies.AT_SIZE, np.int64)
        self._at[window_copies.LIMIT] = limit
        self._taken, self._marks = np.zeros(limit, np.uint8), np.zeros(limit, np.uint64)
        self._free_slot, self._is_holding = int(now.ctl[ws.FREE_SLOT]), True
        now.ctl[ws.FREE_SLOT] = -1  # new keys take new slots, beyond the limit
        self._keys = max(min(piece_bytes // (8 * now.meta.shape[1]), limit), 1)
        self._piece_bytes = piece_bytes
        self._width, self._columns = now.pool.shape[1], now.meta.shape[1]
        self._pieces: list[tuple[UInt64s, Int64s, Int64s]] = []
        self._next_piece(0)

    def _next_piece(self, rows: int) -> None:
        self._trim()
        rows = max(rows, min(self._piece_bytes // (8 * self._width), int(self._ctl[ws.ROWS_LIVE])))
        keys, meta = np.empty(self._keys, np.uint64), np.empty((self._keys, self._columns), np.int64)
        self._pieces.append((keys, meta, np.empty((rows, self._width), np.int64)))
        self._at[window_copies.KEYS] = self._at[window_copies.ROWS] = 0

    def _trim(self) -> None:
        """Cut what is empty off the piece that is being filled."""
        if self._pieces:
            keys, meta, rows = self._pieces[-1]
            count, end = int(self._at[window_copies.KEYS]), int(self._at[window_copies.ROWS])
            self._pieces[-1] = keys[:count], meta[:count], rows[:end]

    @property
    def _arguments(self) -> tuple[object, ...]:
        return (tuple(self._state()), self._plan, self._taken, self._known, self._marks, *self._pieces[-1], self._at)

    def step(self, most: int | None = None) -> bool:
        """Copy the next keys."""
        code = window_copies.copy_next(*self._arguments, most or EVENTS_AT_ONCE)
        if code == window_copies.FULL:
            self._next_piece(window_copies.needed(tuple(self._state()), self._at, self._marks[:0], -1))
        return bool(code == window_copies.DONE)

    def before(self, keys: UInt64s) -> None:
        """Copy keys that a batch may change."""
        done = 0
        while True:
            done = window_copies.copy_keys(*self._arguments, keys, done)
            if done == keys.size:
                return
            self._next_piece(window_copies.needed(tuple(self._state()), self._at, keys, done))

    def end(self) -> None:
        """Let the group go: keys can be freed again."""
        if self._is_holding:
            self._is_holding = False
            self._state().ctl[ws.FREE_SLOT] = self._free_slot
            self._ended()

    def arrays(self) -> Pieces:
        """Hand out keys, their rows of `meta`, their events, and counters."""
        self._trim()
        keys, meta, rows = zip(*self._pieces, strict=True)
        self._pieces = []
        return {"keys": list(keys), "meta": list(meta), "rows": list(rows), "ctl": [self._ctl]}

    def keep(self) -> None:
        """The copy is stored: the next one may leave out what is still as it was."""
        self._keep(self._marks)


def whole_of(copy: Copy) -> Arrays:
    """Complete a copy at once, and return its arrays, each in one piece."""
    while not copy.step():
        pass
    copy.end()
    return {name: np.concatenate(pieces) for name, pieces in copy.arrays().items()}


LAYERED = ("keys", "meta", "rows")  # of a group: what a later copy leaves out lies in an earlier one


def restored_group(
    plan: tuple[NDArray, ...], layers: Sequence[Mapping[str, Array]], meta: int, width: int, rows_min: int
) -> ws.State:
    """Return a group's state from what `GroupCopy.arrays` returned, newest first.

    Raises:
        ValueError: the arrays belong to other features.
    """
    if any(layer["meta"].shape[1:] != (meta,) or layer["rows"].shape[1:] != (width,) for layer in layers):
        raise ValueError("the snapshot belongs to other features: its rows have another shape")
    keys = sum(len(layer["keys"]) for layer in layers)
    rows = sum(len(layer["rows"]) for layer in layers)
    counted = sum(int(layer["meta"][:, cache[3] + ws.DISTINCT].sum()) for cache in plan[2] for layer in layers
                  if cache[0] == ws.C_COUNTS)  # fmt: skip
    room = max(rows_min, _power_of_two(3 * rows + 8 * keys))
    counts = _power_of_two(max(256, 2 * (counted + 1)))
    state = ws.empty_state(meta, width, max(256, _power_of_two(keys)), room, counts)
    for layer in layers:
        arrays = [np.require(layer[name], layer[name].dtype, ["C", "W"]) for name in LAYERED]
        if len(arrays[0]) != len(arrays[1]) or window_copies.put_back(tuple(state), plan, *arrays) < 0:
            raise ValueError("the snapshot is of no use: its arrays do not fit each other")
    for counter in (ws.ROWS_CAPPED, ws.KEYS_FREED):
        state.ctl[counter] = layers[0]["ctl"][counter]
    return state


def _power_of_two(least: int) -> int:
    return 1 << max(least - 1, 0).bit_length()


class EngineCopy:
    """A copy of all parts of an engine.

    Args:
        parts: name -> part.
        whole: all of it, not only what changed since the last copy that was stored.
    """

    def __init__(self, parts: Mapping[str, Stateful], whole: bool) -> None:
        self._copies: dict[str, Copy] = {
            name: part.copy(whole) if isinstance(part, Copyable) else Held(part.save()) for name, part in parts.items()
        }
        self._left = list(self._copies.values())
        layered = [name for name, copy in self._copies.items() if isinstance(copy, GroupCopy)]
        self.onto = [] if whole else [f"{part}/{name}" for part in layered for name in LAYERED]

    def step(self, most: int | None = None) -> bool:
        """Copy a little more, about `most` events or entries; True if nothing is left."""
        if self._left and self._left[0].step(most):
            self._left.pop(0).end()
        return not self._left

    def end(self) -> None:
        """Let the state go, whether or not all of it is copied."""
        while self._left:
            self._left.pop(0).end()

    def arrays(self) -> Pieces:
        """Hand out what was copied, once."""
        return {f"{part}/{name}": each for part, copy in self._copies.items() for name, each in copy.arrays().items()}

    def keep(self) -> None:
        """The copy is stored: the next one may be only what changed since."""
        for copy in self._copies.values():
            copy.keep()


def restore_parts(parts: Mapping[str, Stateful], layers: Sequence[Mapping[str, Array]]) -> None:
    """Give each part of an engine its state, from what `EngineCopy.arrays` returned, newest first.

    Raises:
        ValueError: the arrays belong to another app.
    """
    saved: list[dict[str, Arrays]] = []
    for layer in layers:
        saved.append({})
        for path, array in layer.items():
            name, _, key = path.rpartition("/")
            saved[-1].setdefault(name, {})[key] = array
    if set(parts) != set(saved[0]) or any(set(each) - set(parts) for each in saved[1:]):
        raise ValueError("the snapshot belongs to other streams or features")
    try:
        for name, part in parts.items():
            is_layered = set(LAYERED) <= set(saved[0][name])
            part.restore(saved[0][name], *(each[name] for each in saved[1:] if is_layered and name in each))
    except KeyError as error:
        raise ValueError(f"the snapshot belongs to another version: it has no array {error}") from error
