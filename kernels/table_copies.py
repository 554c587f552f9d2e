"""The entries of a hash table by id: copied out in small steps while batches go on, and put back.

The tables are those of `kernels.admission` and `kernels.joins`: an id's first bucket is its low bits, the next ones
follow, entries are changed but never removed. Before a batch, `copy_ids` copies the entries that it may change, so that
the whole copy is of the moment when it began.
"""

import numpy as np

from kernels.compiled import njit
from kernels.parts import NO_RUNTIME, part

# Positions in `at`, where a copy stands: the next bucket, and how many entries the arrays that are being filled hold.
NEXT, ENTRIES = range(2)
AT_SIZE = 2
DONE, MORE, FULL = 0, 1, 2
COPY = "uint64[::1], int64[:,::1], uint8[::1], uint64[::1], int64[:,::1], int64[::1]"


@part
def copy_bucket(table, rows, taken, out_ids, out_rows, at, bucket):
    """Copy an entry if it is not copied yet; False if the arrays are full."""
    if table[bucket] == 0 or taken[bucket] != 0:
        return True
    if at[ENTRIES] == out_ids.size:
        return False
    out_ids[at[ENTRIES]] = table[bucket]
    for column in range(rows.shape[1]):
        out_rows[at[ENTRIES], column] = rows[bucket, column]
    taken[bucket] = 1
    at[ENTRIES] += 1
    return True


@njit(f"int64({COPY}, int64)", **NO_RUNTIME)
def copy_next(table, rows, taken, out_ids, out_rows, at, buckets_max):
    """Copy the entries of the next buckets.

    Args:
        table: (buckets,) ids, 0 is empty.
        rows: (buckets, columns) what is kept of each id.
        taken: (buckets,) 1 where nothing is to be copied any more; written.
        out_ids, out_rows: filled from `at[ENTRIES]` on.
        at: where the copy stands; changed.
        buckets_max: how many buckets to look at.

    Returns:
        DONE, MORE, or FULL.
    """
    end = min(at[NEXT] + buckets_max, table.size)
    while at[NEXT] < end:
        if not copy_bucket(table, rows, taken, out_ids, out_rows, at, at[NEXT]):
            return FULL
        at[NEXT] += 1
    return DONE if end == table.size else MORE


@njit(f"int64({COPY}, uint64[::1], int64)", **NO_RUNTIME)
def copy_ids(table, rows, taken, out_ids, out_rows, at, ids, start):
    """Copy the entries of these ids, from `ids[start]` on, before a batch changes them; return how many are dealt with.

    An id that has none may get the first empty bucket on its way, or the next one if another id of the batch gets that:
    such buckets are marked as taken. Fewer than there are means that the arrays are full.
    """
    mask = table.size - 1
    for number in range(start, ids.size):
        bucket, steps = np.int64(ids[number] & np.uint64(mask)), 0
        while steps < table.size and table[bucket] != ids[number] and (table[bucket] != 0 or taken[bucket] != 0):
            bucket = (bucket + 1) & mask
            steps += 1
        if table[bucket] == 0:
            taken[bucket] = 1
        elif table[bucket] == ids[number] and not copy_bucket(table, rows, taken, out_ids, out_rows, at, bucket):
            return number
    return ids.size


@njit("int64(uint64[::1], int64[:,::1], uint64[::1], int64[:,::1])", **NO_RUNTIME)
def put_back(table, rows, ids, id_rows):
    """Put copied entries into an empty table; return how many, -1 if there is too little room or an id is 0."""
    mask = table.size - 1
    if 2 * ids.size > table.size:
        return -1
    for number in range(ids.size):
        bucket = np.int64(ids[number] & np.uint64(mask))
        while table[bucket] != 0:
            bucket = (bucket + 1) & mask
        if ids[number] == 0:
            return -1
        table[bucket] = ids[number]
        for column in range(rows.shape[1]):
            rows[bucket, column] = id_rows[number, column]
    return ids.size
