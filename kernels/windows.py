"""Exact windows over event time for many keys: one pass over a batch, arrays in, arrays out.

`update` takes the operations of a batch in log order. Each inserts an event, or asks for the features of one, or both.
The result depends on the events alone, in (time, order of arrival): not on batches, restarts, or when memory was freed.
"""

import numpy as np

from kernels.compiled import njit
from kernels.parts import NO_RUNTIME, hot
from kernels.window_ahead import look_ahead
from kernels.window_counts import counts_full, move_counts
from kernels.window_features import emit
from kernels.window_rows import drop_expired, drop_front, insert
from kernels.window_state import (
    BEGIN,
    C_COUNTS,
    C_KIND,
    CAPACITY,
    CURSOR,
    END,
    FIRST,
    FREE_SLOT,
    HINTS,
    PHASE,
    PLAN,
    RETENTION_MS,
    SLOTS_USED,
    STATE,
    SWEEP_AT,
    add_slot,
    find_slot,
    make_room,
    mix,
    remove_slot,
)

INSERT, QUERY = 1, 2
DONE, GROW_SLOTS, GROW_POOL, GROW_COUNTS = 0, 1, 2, 3


@hot
def seek(pool, begin, first, end, guess, bound_ms):
    """Return the first position in [first, end] whose time is above the bound, looking around `guess` first."""
    low, high = first, end
    at = min(max(guess, first), end)
    step = 1
    if at < end and pool[begin + at, 0] <= bound_ms:
        low = at + 1
        while low < end and pool[begin + min(low + step, end) - 1, 0] <= bound_ms:
            low = min(low + step, end)
            step *= 2
        high = min(low + step, end)
    else:
        high = at
        while high > first and pool[begin + max(high - step, first), 0] > bound_ms:
            high = max(high - step, first)
            step *= 2
        low = max(high - step, first)
    while low < high:
        middle = (low + high) // 2
        if pool[begin + middle, 0] > bound_ms:
            high = middle
        else:
            low = middle + 1
    return low


@njit(
    f"int64({STATE}, {PLAN}, int8[::1], uint64[::1], int64[:,::1], int64[:,::1], "
    "float64[:,::1], int64[:,::1], int64[::1])",
    **NO_RUNTIME,
)
def update(state_arrays, plan_arrays, kinds, keys, times, values, out, stretch, scratch):
    """Apply a batch of operations in log order, from `ctl[CURSOR]` on.

    Args:
        state_arrays: the group's `State` as a plain tuple, changed.
        plan_arrays: its `Plan` as a plain tuple: what to compute.
        kinds: (operations,) INSERT, QUERY or both.
        keys: (operations,) hash of the key.
        times: (operations, 3) event time, time known, and the oldest time an event not late could still have.
        values: (operations, inputs) fixed-point numbers, weights and hashes, as `columns` says.
        out: (operations, features) float64, NaN is null; written for queries.
        stretch: (windows, 2) scratch for the rows of each window.
        scratch: (rows kept per key,) for aggregates that sort.

    Returns:
        DONE, or what must grow before the call is repeated with the same arguments.
    """
    table, slot_key, meta, pool, free, count_key, count_n, ctl = state_arrays
    windows, columns, caches, program, params, shape = plan_arrays
    while ctl[CURSOR] < kinds.size:
        now = ctl[CURSOR]
        look_ahead(
            table, slot_key, meta, pool, count_key, count_n, windows, columns, caches, kinds, keys, values, now
        )  # fmt: skip
        time_ms, floor_ms = times[now, 0], times[now, 2]
        slot = find_slot(table, slot_key, keys[now])
        if ctl[PHASE] == 0:
            position = np.int64(-1)
            if kinds[now] & INSERT and time_ms > floor_ms - shape[RETENTION_MS]:
                if slot < 0:
                    if ctl[FREE_SLOT] < 0 and ctl[SLOTS_USED] == slot_key.size:
                        return GROW_SLOTS
                    slot = add_slot(table, slot_key, meta, ctl, keys[now])
                if meta[slot, END] == meta[slot, CAPACITY]:
                    drop_expired(
                        meta, pool, count_key, count_n, ctl, columns, caches, slot, floor_ms - shape[RETENTION_MS]
                    )
                    if not make_room(meta, pool, free, ctl, windows, caches, slot):
                        return GROW_POOL
                if counts_full(count_key, ctl, caches.shape[0]):
                    return GROW_COUNTS
                position = insert(
                    meta, pool, count_key, count_n, ctl, windows, columns, caches, shape, slot, times, values, now
                )
            ctl[PHASE] = position + 2
        if kinds[now] & QUERY:
            position = ctl[PHASE] - 2
            if not find_bounds(
                meta, pool, count_key, count_n, ctl, windows, columns, caches, slot, time_ms, floor_ms, position,
                stretch,
            ):  # fmt: skip
                return GROW_COUNTS
            before = position
            if position < 0 and slot >= 0:
                before = seek(pool, meta[slot, BEGIN], meta[slot, FIRST], meta[slot, END], meta[slot, END], time_ms)
            emit(
                meta, pool, count_key, count_n, columns, caches, program, params, shape, slot, time_ms, before,
                stretch, values, out, scratch, now,
            )  # fmt: skip
        ctl[PHASE] = 0
        ctl[CURSOR] += 1
    ctl[CURSOR] = 0
    return DONE


@hot
def find_bounds(
    meta, pool, count_key, count_n, ctl, windows, columns, caches, slot, time_ms, floor_ms, position, stretch
):
    """Find each window's stretch of rows and move what is cached there; False if the counts must grow first."""
    if slot < 0:
        return True
    begin, first, end = meta[slot, BEGIN], meta[slot, FIRST], meta[slot, END]
    newest = time_ms if time_ms > floor_ms else floor_ms
    for window in range(windows.shape[0]):
        span, delay = windows[window, 0], windows[window, 1]
        low = seek(pool, begin, first, end, meta[slot, HINTS + window], newest - delay - span)
        meta[slot, HINTS + window] = low
        stretch[window, 0] = low
        if delay == 0 and position >= 0:
            stretch[window, 1] = max(position + 1, low)
        else:
            stretch[window, 1] = max(seek(pool, begin, first, end, end if delay == 0 else low, time_ms - delay), low)
    for cache in range(caches.shape[0]):
        if caches[cache, C_KIND] == C_COUNTS:
            window = caches[cache, 1]
            if not move_counts(
                meta, pool, count_key, count_n, ctl, columns, caches, slot, cache, stretch[window, 0],
                stretch[window, 1],
            ):  # fmt: skip
                return False
    return True


@njit(f"int64({STATE}, {PLAN}, int64, int64)", **NO_RUNTIME)
def sweep(state_arrays, plan_arrays, floor_ms, slots):
    """Look at the next `slots` keys in turn and free those of which no window can see an event any more.

    Args:
        floor_ms: the oldest time that an event not late could still have.
        slots: how many keys to look at; a few more than were added since keeps memory bounded.

    Returns:
        How many keys were freed.
    """
    table, slot_key, meta, pool, free, count_key, count_n, ctl = state_arrays
    _, columns, caches, _, _, shape = plan_arrays
    freed = 0
    used = ctl[SLOTS_USED]
    for _ in range(min(slots, used)):
        slot = ctl[SWEEP_AT] % used
        ctl[SWEEP_AT] = (slot + 1) % used
        if meta[slot, CAPACITY] < 0:
            continue
        if (
            meta[slot, END] > meta[slot, FIRST]
            and pool[meta[slot, BEGIN] + meta[slot, END] - 1, 0] > floor_ms - shape[RETENTION_MS]
        ):
            continue
        drop_front(meta, pool, count_key, count_n, ctl, columns, caches, slot, meta[slot, END])
        remove_slot(table, slot_key, meta, pool, free, ctl, slot)
        freed += 1
    return freed


@njit(
    f"int64({STATE}, {PLAN}, uint64, int64, int64, int64[:,::1], float64[:,::1], int64[:,::1], int64[::1])",
    **NO_RUNTIME,
)
def look(state_arrays, plan_arrays, key, time_ms, floor_ms, values, out, stretch, scratch):
    """Write the features a key would have at a time without an event of its own; return its number of rows, -1 if none.

    Moves only hints and caches, never what is stored.
    """
    table, slot_key, meta, pool, _, count_key, count_n, ctl = state_arrays
    windows, columns, caches, program, params, shape = plan_arrays
    slot = find_slot(table, slot_key, key)
    if slot < 0:
        return -1
    if not find_bounds(
        meta, pool, count_key, count_n, ctl, windows, columns, caches, slot, time_ms, floor_ms, -1, stretch
    ):
        return -2
    before = seek(pool, meta[slot, BEGIN], meta[slot, FIRST], meta[slot, END], meta[slot, END], time_ms)
    emit(
        meta, pool, count_key, count_n, columns, caches, program, params, shape, slot, time_ms, before, stretch,
        values, out, scratch, 0,
    )  # fmt: skip
    return meta[slot, END] - meta[slot, FIRST]


@njit("void(int64[::1], uint64[::1], int64[::1])", **NO_RUNTIME)
def rehash(table, slot_key, larger):
    """Copy a hash table of keys into a larger, empty one."""
    mask = larger.size - 1
    for entry in table:
        if entry != 0:
            at = np.int64(mix(slot_key[entry - 1], np.uint64(0)) & np.uint64(mask))
            while larger[at] != 0:
                at = (at + 1) & mask
            larger[at] = entry


@njit("void(uint64[::1], int64[::1], uint64[::1], int64[::1])", **NO_RUNTIME)
def recount(count_key, count_n, larger_key, larger_n):
    """Copy a hash table of counts into a larger, empty one."""
    mask = larger_n.size - 1
    for entry in range(count_n.size):
        if count_n[entry] != 0:
            at = np.int64(count_key[entry] & np.uint64(mask))
            while larger_n[at] != 0:
                at = (at + 1) & mask
            larger_key[at], larger_n[at] = count_key[entry], count_n[entry]
