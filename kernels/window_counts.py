"""How often each value stands in a window: one hash table for all keys of a group.

A counting cache remembers a stretch of rows [LOW, HIGH) of its key's segment, and the table holds the counts of the
values in that stretch. Asking about another stretch moves it row by row, forwards or backwards: always exact, and
cheap because consecutive windows overlap.
"""

import math

import numpy as np

from kernels.parts import hot, part
from kernels.window_state import (
    BEGIN,
    C_COLUMN,
    C_ENTROPY,
    C_META,
    COUNTS_USED,
    DISTINCT,
    HIGH,
    LOW,
    SURPRISE,
    mix,
)

Int, U = np.int64, np.uint64
CACHES_MAX = 1 << 20  # of one group: far more than features
GRID = 4294967296.0  # sums of n * log2(n) are kept as integers of 2**-32, so they never drift


@part
def surprise(count):
    """Return count * log2(count) as an integer of 2**-32."""
    if count < 2:
        return Int(0)
    return Int(round(count * math.log2(count) * GRID))


@hot
def bucket_of(count_key, count_n, name):
    """Return where a name stands in the table, or the empty bucket where it would."""
    mask = count_key.size - 1
    at = Int(name & U(mask))
    while count_n[at] != 0 and count_key[at] != name:
        at = (at + 1) & mask
    return at


@hot
def name_of(slot, cache, value):
    """Return the table's name for a value in the window of a key: equal names are taken as equal values."""
    return mix(U(value), U(slot * CACHES_MAX + cache + 1))


@part
def count_of(count_key, count_n, slot, cache, value):
    """Return how often a value stands in the cached stretch."""
    return count_n[bucket_of(count_key, count_n, name_of(slot, cache, value))]


@hot
def add_value(meta, count_key, count_n, ctl, caches, slot, cache, value, by):
    """Count a value once more (by = 1) or once less (by = -1)."""
    name = name_of(slot, cache, value)
    at = bucket_of(count_key, count_n, name)
    was = count_n[at]
    first = caches[cache, C_META]
    if caches[cache, C_ENTROPY] != 0:
        meta[slot, first + SURPRISE] += surprise(was + by) - surprise(was)
    count_n[at] = was + by
    if was == 0:
        count_key[at] = name
        ctl[COUNTS_USED] += 1
        meta[slot, first + DISTINCT] += 1
    elif was + by == 0:
        _close_hole(count_key, count_n, at)
        ctl[COUNTS_USED] -= 1
        meta[slot, first + DISTINCT] -= 1


@hot
def _close_hole(count_key, count_n, hole):
    """Move later entries of the run back over an emptied bucket (Knuth 6.4 algorithm R)."""
    mask = count_key.size - 1
    at = (hole + 1) & mask
    while count_n[at] != 0:
        home = Int(count_key[at] & U(mask))
        if ((at - home) & mask) >= ((at - hole) & mask):
            count_key[hole] = count_key[at]
            count_n[hole] = count_n[at]
            hole = at
        at = (at + 1) & mask
    count_n[hole] = 0


@part
def counts_full(count_key, ctl, rows):
    """Whether `rows` more values could leave the table too full."""
    return (ctl[COUNTS_USED] + rows) * 3 > count_key.size * 2


@hot
def move_counts(meta, pool, count_key, count_n, ctl, columns, caches, slot, cache, low, high):
    """Make the cached stretch [low, high); False, to be called again, if the table must grow first."""
    first = caches[cache, C_META]
    column = columns[caches[cache, C_COLUMN], 1]
    begin = meta[slot, BEGIN]
    if (
        meta[slot, first + HIGH] <= low or meta[slot, first + LOW] >= high
    ):  # no overlap: empty it, then start at the new place
        while meta[slot, first + LOW] < meta[slot, first + HIGH]:
            meta[slot, first + HIGH] -= 1
            add_value(
                meta, count_key, count_n, ctl, caches, slot, cache, pool[begin + meta[slot, first + HIGH], column], -1
            )
        meta[slot, first + LOW] = meta[slot, first + HIGH] = low
    while meta[slot, first + HIGH] < high:
        if counts_full(count_key, ctl, 1):
            return False
        add_value(meta, count_key, count_n, ctl, caches, slot, cache, pool[begin + meta[slot, first + HIGH], column], 1)
        meta[slot, first + HIGH] += 1
    while meta[slot, first + LOW] > low:
        if counts_full(count_key, ctl, 1):
            return False
        meta[slot, first + LOW] -= 1
        add_value(meta, count_key, count_n, ctl, caches, slot, cache, pool[begin + meta[slot, first + LOW], column], 1)
    while meta[slot, first + HIGH] > high:
        meta[slot, first + HIGH] -= 1
        add_value(
            meta, count_key, count_n, ctl, caches, slot, cache, pool[begin + meta[slot, first + HIGH], column], -1
        )
    while meta[slot, first + LOW] < low:
        add_value(meta, count_key, count_n, ctl, caches, slot, cache, pool[begin + meta[slot, first + LOW], column], -1)
        meta[slot, first + LOW] += 1
    return True
