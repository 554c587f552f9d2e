"""The state of a group of windows key by key: copied out in small steps while batches go on, and put back.

Only what is in use is copied: a key's hash, its row of `meta`, its events. The tables of keys and of counts and the
free segments follow from these. Before a batch changes a key that is not copied yet, `copy_keys` copies it, so that the
whole copy is of the moment when it began. Meanwhile no key is freed, and new keys take new slots, above `at[LIMIT]`.
"""

import numpy as np

from kernels.compiled import njit
from kernels.parts import NO_RUNTIME, part
from kernels.window_counts import bucket_of, name_of
from kernels.window_state import (
    BEGIN,
    C_COLUMN,
    C_COUNTS,
    C_KIND,
    C_META,
    CAPACITY,
    COUNTS_USED,
    DROPPED,
    END,
    FIRST,
    HIGH,
    KEYS_LIVE,
    KNOWN_MAX,
    LOW,
    PLAN,
    POOL_USED,
    ROWS_LIVE,
    SMALLEST,
    STATE,
    add_slot,
    find_slot,
    move_positions,
)

# Positions in `at`, where a copy stands: the next slot, the first slot that is no part of it, and what the arrays that
# are being filled hold already.
NEXT, LIMIT, KEYS, ROWS = range(4)
AT_SIZE = 4
DONE, MORE, FULL = 0, 1, 2
U = np.uint64
COPY = f"{STATE}, {PLAN}, uint8[::1], uint64[::1], uint64[::1], uint64[::1], int64[:,::1], int64[:,::1], int64[::1]"


@part
def mark_of(mark, word):
    """Return a hash of what was hashed and one more word (steps of splitmix64's finaliser)."""
    mark = (mark ^ U(word)) * U(0xBF58476D1CE4E5B9)
    return mark ^ (mark >> U(32))


@part
def copy_slot(slot_key, meta, pool, windows, caches, taken, known, marks, out_keys, out_meta, out_rows, at, slot):
    """Copy a key if it is not copied yet and not as it was known; False if the arrays are full."""
    if taken[slot] != 0 or meta[slot, CAPACITY] < 0:
        return True
    begin, first = meta[slot, BEGIN], meta[slot, FIRST]
    rows = meta[slot, END] - first
    if at[KEYS] == out_keys.size or at[ROWS] + rows > out_rows.shape[0]:
        return False
    mark = mark_of(mark_of(mark_of(U(rows), slot_key[slot]), meta[slot, KNOWN_MAX]), meta[slot, DROPPED])
    for row in range(rows):
        for column in range(pool.shape[1]):
            word = pool[begin + first + row, column]
            out_rows[at[ROWS] + row, column] = word
            mark = mark_of(mark, word)
    taken[slot] = 1
    marks[slot] = mark
    if slot < known.size and known[slot] == mark:
        return True
    for column in range(meta.shape[1]):
        out_meta[at[KEYS], column] = meta[slot, column]
    move_positions(out_meta, windows, caches, at[KEYS], first)
    out_meta[at[KEYS], BEGIN], out_meta[at[KEYS], CAPACITY] = 0, rows
    out_meta[at[KEYS], FIRST], out_meta[at[KEYS], END] = 0, rows
    out_keys[at[KEYS]] = slot_key[slot]
    at[KEYS] += 1
    at[ROWS] += rows
    return True


@njit(f"int64({COPY}, int64)", **NO_RUNTIME)
def copy_next(state_arrays, plan_arrays, taken, known, marks, out_keys, out_meta, out_rows, at, rows_max):
    """Copy the next keys.

    Args:
        state_arrays, plan_arrays: of the group, as plain tuples; not changed.
        taken: (slots,) 1 where a key is copied already; written.
        known: (slots,) marks of an earlier copy: a key as it was then is left out; (0,) to leave none out.
        marks: (slots,) the marks of this copy; written.
        out_keys, out_meta, out_rows: filled from `at[KEYS]` and `at[ROWS]` on.
        at: where the copy stands; changed.
        rows_max: about how many events to copy; a key counts as one more.

    Returns:
        DONE, MORE, or FULL if the next key needs other arrays: `needed` tells how large.
    """
    _, slot_key, meta, pool, _, _, _, _ = state_arrays
    windows, _, caches, _, _, _ = plan_arrays
    done = 0
    while at[NEXT] < at[LIMIT]:
        if done >= rows_max:
            return MORE
        slot = at[NEXT]
        if not copy_slot(
            slot_key, meta, pool, windows, caches, taken, known, marks, out_keys, out_meta, out_rows, at, slot
        ):  # fmt: skip
            return FULL
        done += 1 + meta[slot, END] - meta[slot, FIRST]
        at[NEXT] += 1
    return DONE


@njit(f"int64({COPY}, uint64[::1], int64)", **NO_RUNTIME)
def copy_keys(state_arrays, plan_arrays, taken, known, marks, out_keys, out_meta, out_rows, at, keys, start):
    """Copy these keys, from `keys[start]` on, before a batch changes them; return how many are dealt with.

    Fewer than there are means that the next one needs other arrays.
    """
    table, slot_key, meta, pool, _, _, _, _ = state_arrays
    windows, _, caches, _, _, _ = plan_arrays
    for number in range(start, keys.size):
        slot = find_slot(table, slot_key, keys[number])
        if at[NEXT] <= slot < at[LIMIT] and not copy_slot(
            slot_key, meta, pool, windows, caches, taken, known, marks, out_keys, out_meta, out_rows, at, slot
        ):  # fmt: skip
            return number
    return keys.size


@njit(f"int64({STATE}, int64[::1], uint64[::1], int64)", **NO_RUNTIME)
def needed(state_arrays, at, keys, number):
    """Return how many events the key has that did not fit: `keys[number]`, or that of the next slot if -1."""
    table, slot_key, meta, _, _, _, _, _ = state_arrays
    slot = at[NEXT] if number < 0 else find_slot(table, slot_key, keys[number])
    return meta[slot, END] - meta[slot, FIRST]


@njit(f"int64({STATE}, {PLAN}, uint64[::1], int64[:,::1], int64[:,::1])", **NO_RUNTIME)
def put_back(state_arrays, plan_arrays, keys, meta_rows, rows):
    """Put copied keys into a group that has room for them; keys that it has already stay as they are.

    Args:
        keys: (keys,) hashes.
        meta_rows: (keys, columns) as copied.
        rows: (events, width) of all keys, one key after the other.

    Returns:
        How many events were put back; -1 if the arrays do not fit each other or the group has too little room.
    """
    table, slot_key, meta, pool, _, count_key, count_n, ctl = state_arrays
    _, columns, caches, _, _, _ = plan_arrays
    read, put = 0, 0
    for number in range(keys.size):
        live = meta_rows[number, END]
        if live < 0 or read + live > rows.shape[0]:
            return -1
        if find_slot(table, slot_key, keys[number]) >= 0:
            read += live
            continue
        capacity = SMALLEST
        while capacity * 3 < live * 4 + 4:  # room for more, as when a segment is made
            capacity *= 2
        begin = ctl[POOL_USED]
        if begin + capacity > pool.shape[0] or ctl[KEYS_LIVE] == slot_key.size:
            return -1
        slot = add_slot(table, slot_key, meta, ctl, keys[number])
        for column in range(meta.shape[1]):
            meta[slot, column] = meta_rows[number, column]
        meta[slot, BEGIN], meta[slot, CAPACITY], ctl[POOL_USED] = begin, capacity, begin + capacity
        for row in range(live):
            for column in range(pool.shape[1]):
                pool[begin + row, column] = rows[read + row, column]
        if not count_again(meta, pool, count_key, count_n, ctl, columns, caches, slot):
            return -1
        read += live
        put += live
    ctl[ROWS_LIVE] += put
    return put if read == rows.shape[0] else -1


@part
def count_again(meta, pool, count_key, count_n, ctl, columns, caches, slot):
    """Count the values of a key's cached stretches, of which `meta` knows the sums already; False without room."""
    for cache in range(caches.shape[0]):
        if caches[cache, C_KIND] != C_COUNTS:
            continue
        first, column = caches[cache, C_META], columns[caches[cache, C_COLUMN], 1]
        if meta[slot, first + LOW] < 0 or meta[slot, first + HIGH] > meta[slot, END]:
            return False
        for position in range(meta[slot, first + LOW], meta[slot, first + HIGH]):
            at = bucket_of(count_key, count_n, name_of(slot, cache, pool[meta[slot, BEGIN] + position, column]))
            if count_n[at] == 0:
                if (ctl[COUNTS_USED] + 1) * 3 > count_key.size * 2:
                    return False
                count_key[at] = name_of(slot, cache, pool[meta[slot, BEGIN] + position, column])
                ctl[COUNTS_USED] += 1
            count_n[at] += 1
    return True
