"""Where the events of every key live: arrays, a hash table of keys, and a pool of segments.

One group of windows keeps, per key, a *segment*: consecutive rows of the pool, sorted by (time, order of arrival).
Segments have power-of-two capacities; a full one first drops what no window can see any more, then slides down, then
moves to a segment of the right size. Running totals stand in the rows themselves (each row holds the total of the
rows before it), so that the total of any stretch of rows is a difference of two integers: exact, for any span, whatever
came late.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.parts import hot, part

Int64s = NDArray[np.int64]
Float64s = NDArray[np.float64]
UInt64s = NDArray[np.uint64]

# Columns of `meta`, one row per key. Caches follow from CACHES on.
BEGIN, CAPACITY, FIRST, END, KNOWN_MAX, DROPPED, HINTS = 0, 1, 2, 3, 4, 5, 6
# Positions in `ctl`, the group's counters.
(
    POOL_USED,
    SLOTS_USED,
    FREE_SLOT,
    KEYS_LIVE,
    COUNTS_USED,
    ROWS_LIVE,
    ROWS_CAPPED,
    KEYS_FREED,
    SWEEP_AT,
    CURSOR,
    PHASE,
) = range(11)
CTL_SIZE = 16
SMALLEST = 4  # rows of the smallest segment
CLASSES = 40
# Columns of `caches`: kind 0 counts values of a hash column, kind 1 / 2 keeps where the largest / smallest is.
C_KIND, C_WINDOW, C_COLUMN, C_META, C_ENTROPY = 0, 1, 2, 3, 4
C_COUNTS, C_MAX, C_MIN = 0, 1, 2
# Offsets inside the meta of a counting cache, and of an extreme cache.
LOW, HIGH, DISTINCT, SURPRISE = 0, 1, 2, 3
BEST, FROM, SEEN_TO = 0, 1, 2


class State(NamedTuple):
    """All arrays of one group; grown by `pipeline.groups`, changed only by kernels.

    Attributes:
        table: (buckets,) open addressing by key hash: slot + 1, 0 is empty.
        slot_key: (slots,) hash of the key in each slot.
        meta: (slots, columns) positions in a key's segment, hints and caches; see the constants above.
        pool: (rows, width) the events: time, then known time where facts have one, then the columns of values.
        free: (classes,) first free segment of each size, -1 for none; the next stands in the segment's first word.
        count_key, count_n: (buckets,) how often a value stands in a cached window, by hash of (slot, cache, value).
        ctl: counters.
    """

    table: Int64s
    slot_key: UInt64s
    meta: Int64s
    pool: Int64s
    free: Int64s
    count_key: UInt64s
    count_n: Int64s
    ctl: Int64s


class Plan(NamedTuple):
    """What one group computes; constant for an app.

    Attributes:
        windows: (windows, 2) span and delay in milliseconds.
        columns: (columns, 5) input, row offset, has weight, has squares, is hash: where a value goes in a row.
        caches: (caches, 5) kind, window, column, first meta column, whether entropy is asked.
        program: (features, 5) operation, window, column, cache, integer parameter.
        params: (features,) float parameter.
        shape: (row width, has known time, rows kept per key, retention in ms).
    """

    windows: Int64s
    columns: Int64s
    caches: Int64s
    program: Int64s
    params: Float64s
    shape: Int64s


WIDTH, HAS_KNOWN, ROWS_MAX, RETENTION_MS = 0, 1, 2, 3
# Their types in numba's notation; kernels get plain tuples and name them inside.
STATE = "Tuple((int64[::1], uint64[::1], int64[:,::1], int64[:,::1], int64[::1], uint64[::1], int64[::1], int64[::1]))"
PLAN = "Tuple((int64[:,::1], int64[:,::1], int64[:,::1], int64[:,::1], float64[::1], int64[::1]))"
Int, U = np.int64, np.uint64


def empty_state(meta_columns: int, width: int, slots: int = 256, rows: int = 4096, counts: int = 256) -> State:
    """Return the state of a group that has seen nothing; sizes are powers of two and grow."""
    return State(
        table=np.zeros(2 * slots, np.int64),
        slot_key=np.zeros(slots, np.uint64),
        meta=np.zeros((slots, meta_columns), np.int64),
        pool=np.empty((rows, width), np.int64),
        free=np.full(CLASSES, -1, np.int64),
        count_key=np.zeros(counts, np.uint64),
        count_n=np.zeros(counts, np.int64),
        ctl=_empty_ctl(),
    )


def _empty_ctl() -> Int64s:
    ctl = np.zeros(CTL_SIZE, np.int64)
    ctl[FREE_SLOT] = -1
    return ctl


@hot
def mix(a, b):
    """Return a 64-bit hash of two (finaliser of splitmix64, Steele, Lea, Flood 2014)."""
    x = (a ^ (b * U(0x9E3779B97F4A7C15))) + U(0x9E3779B97F4A7C15)
    x = (x ^ (x >> U(30))) * U(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U(27))) * U(0x94D049BB133111EB)
    return x ^ (x >> U(31))


@hot
def find_slot(table, slot_key, key):
    """Return the slot of a key, -1 if it has none."""
    mask = table.size - 1
    at = Int(mix(key, U(0)) & U(mask))
    while table[at] != 0:
        if slot_key[table[at] - 1] == key:
            return table[at] - 1
        at = (at + 1) & mask
    return -1


@part
def add_slot(table, slot_key, meta, ctl, key):
    """Give a key, known to have none, a slot without a segment; the caller made sure that there is room."""
    slot = ctl[FREE_SLOT]
    if slot >= 0:
        ctl[FREE_SLOT] = meta[slot, BEGIN]
    else:
        slot = ctl[SLOTS_USED]
        ctl[SLOTS_USED] += 1
    ctl[KEYS_LIVE] += 1
    slot_key[slot] = key
    for column in range(meta.shape[1]):
        meta[slot, column] = 0
    mask = table.size - 1
    at = Int(mix(key, U(0)) & U(mask))
    while table[at] != 0:
        at = (at + 1) & mask
    table[at] = slot + 1
    return slot


@part
def remove_slot(table, slot_key, meta, pool, free, ctl, slot):
    """Take an empty key out of the table (backward shift, Knuth 6.4 algorithm R) and give its segment back."""
    if meta[slot, CAPACITY] > 0:
        free_segment(pool, free, meta[slot, BEGIN], meta[slot, CAPACITY])
    mask = table.size - 1
    hole = Int(mix(slot_key[slot], U(0)) & U(mask))
    while table[hole] != slot + 1:
        hole = (hole + 1) & mask
    at = (hole + 1) & mask
    while table[at] != 0:
        home = Int(mix(slot_key[table[at] - 1], U(0)) & U(mask))
        if ((at - home) & mask) >= ((at - hole) & mask):
            table[hole] = table[at]
            hole = at
        at = (at + 1) & mask
    table[hole] = 0
    meta[slot, CAPACITY] = -1  # marks a free slot for sweeps
    meta[slot, BEGIN] = ctl[FREE_SLOT]
    ctl[FREE_SLOT] = slot
    ctl[KEYS_LIVE] -= 1
    ctl[KEYS_FREED] += 1


@part
def size_class(capacity):
    """Return the class of a power-of-two capacity."""
    found = 0
    while (SMALLEST << found) < capacity:
        found += 1
    return found


@part
def free_segment(pool, free, begin, capacity):
    """Put a segment on the list of free ones of its size."""
    found = size_class(capacity)
    pool[begin, 0] = free[found]
    free[found] = begin


@part
def take_segment(pool, free, ctl, capacity):
    """Return the first row of a segment, -1 if the pool must grow first."""
    found = size_class(capacity)
    begin = free[found]
    if begin >= 0:
        free[found] = pool[begin, 0]
        return begin
    begin = ctl[POOL_USED]
    if begin + capacity > pool.shape[0]:
        return -1
    ctl[POOL_USED] = begin + capacity
    return begin


@part
def move_positions(meta, windows, caches, slot, by):
    """Shift every remembered position of a key down by `by` rows."""
    for window in range(windows.shape[0]):
        meta[slot, HINTS + window] = max(meta[slot, HINTS + window] - by, 0)
    for cache in range(caches.shape[0]):
        at = caches[cache, C_META]
        if caches[cache, C_KIND] == C_COUNTS:
            meta[slot, at + LOW] = max(meta[slot, at + LOW] - by, 0)
            meta[slot, at + HIGH] = max(meta[slot, at + HIGH] - by, 0)
        else:
            meta[slot, at + BEST] -= by  # below FROM: unknown
            meta[slot, at + FROM] = max(meta[slot, at + FROM] - by, 0)
            meta[slot, at + SEEN_TO] = max(meta[slot, at + SEEN_TO] - by, 0)


@part
def make_room(meta, pool, free, ctl, windows, caches, slot):
    """Make sure that a key's segment takes one more row; False, with nothing changed, if the pool must grow."""
    begin, capacity, first, end = meta[slot, BEGIN], meta[slot, CAPACITY], meta[slot, FIRST], meta[slot, END]
    if end < capacity:
        return True
    live = end - first
    wanted = SMALLEST
    while wanted * 3 < live * 4 + 4:  # at most three quarters full, so that sliding stays rare
        wanted *= 2
    target = begin
    if wanted != capacity:
        target = take_segment(pool, free, ctl, wanted)
        if target < 0:
            return False
    width = pool.shape[1]
    for row in range(live):  # forwards: when sliding in place, the target lies below
        for column in range(width):
            pool[target + row, column] = pool[begin + first + row, column]
    if target != begin and capacity > 0:
        free_segment(pool, free, begin, capacity)
    meta[slot, BEGIN], meta[slot, CAPACITY], meta[slot, FIRST], meta[slot, END] = target, wanted, 0, live
    if first > 0:
        move_positions(meta, windows, caches, slot, first)
    return True
