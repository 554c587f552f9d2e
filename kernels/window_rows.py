"""How events enter and leave the segment of their key, with the running totals and everything that is remembered."""

from kernels.int128 import add_product
from kernels.parts import hot, part
from kernels.window_counts import add_value
from kernels.window_state import (
    BEGIN,
    BEST,
    C_COLUMN,
    C_COUNTS,
    C_KIND,
    C_META,
    DROPPED,
    END,
    FIRST,
    FROM,
    HAS_KNOWN,
    HIGH,
    HINTS,
    KNOWN_MAX,
    LOW,
    RETENTION_MS,
    ROWS_CAPPED,
    ROWS_LIVE,
    ROWS_MAX,
    SEEN_TO,
)


@part
def drop_front(meta, pool, count_key, count_n, ctl, columns, caches, slot, new_first):
    """Forget the oldest rows of a key, and take them out of what is cached."""
    for cache in range(caches.shape[0]):
        at = caches[cache, C_META]
        if caches[cache, C_KIND] == C_COUNTS:
            column = columns[caches[cache, C_COLUMN], 1]
            while meta[slot, at + LOW] < new_first and meta[slot, at + LOW] < meta[slot, at + HIGH]:
                add_value(
                    meta,
                    count_key,
                    count_n,
                    ctl,
                    caches,
                    slot,
                    cache,
                    pool[meta[slot, BEGIN] + meta[slot, at + LOW], column],
                    -1,
                )
                meta[slot, at + LOW] += 1
    ctl[ROWS_LIVE] -= new_first - meta[slot, FIRST]
    meta[slot, FIRST] = new_first


@part
def drop_expired(meta, pool, count_key, count_n, ctl, columns, caches, slot, floor_ms):
    """Forget the rows of a key at or before a time."""
    first = meta[slot, FIRST]
    while first < meta[slot, END] and pool[meta[slot, BEGIN] + first, 0] <= floor_ms:
        first += 1
    if first > meta[slot, FIRST]:
        drop_front(meta, pool, count_key, count_n, ctl, columns, caches, slot, first)


@hot
def write_row(pool, columns, shape, row, is_first, time_ms, known_ms, values, now):
    """Write one event into a row, its running totals taken from the row before it."""
    pool[row, 0] = time_ms
    if shape[HAS_KNOWN] != 0:
        pool[row, 1] = known_ms
    for column in range(columns.shape[0]):
        source, at = columns[column, 0], columns[column, 1]
        pool[row, at] = values[now, source]
        if columns[column, 4] != 0:
            continue
        total = at + 1
        pool[row, total] = 0 if is_first else pool[row - 1, total] + pool[row - 1, at]
        if columns[column, 2] != 0:
            pool[row, at + 2] = values[now, source + 1]
            pool[row, at + 3] = 0 if is_first else pool[row - 1, at + 3] + pool[row - 1, at + 2]
        if columns[column, 3] != 0:
            squares = at + 2 + 2 * columns[column, 2]
            if is_first:
                pool[row, squares], pool[row, squares + 1] = 0, 0
            else:
                before = pool[row - 1, at]
                low, high = add_product(pool[row - 1, squares], pool[row - 1, squares + 1], before, before)
                pool[row, squares], pool[row, squares + 1] = low, high


@part
def insert_between(meta, pool, windows, caches, slot, at):
    """Move the rows from `at` on up by one, and every remembered position with them."""
    begin, width = meta[slot, BEGIN], pool.shape[1]
    for position in range(meta[slot, END], at, -1):
        for column in range(width):
            pool[begin + position, column] = pool[begin + position - 1, column]
    for window in range(windows.shape[0]):
        if meta[slot, HINTS + window] > at:
            meta[slot, HINTS + window] += 1
    for cache in range(caches.shape[0]):
        first = caches[cache, C_META]
        if caches[cache, C_KIND] == C_COUNTS:
            if at < meta[slot, first + LOW]:
                meta[slot, first + LOW] += 1
                meta[slot, first + HIGH] += 1
            elif at < meta[slot, first + HIGH]:
                meta[slot, first + HIGH] += 1
        elif at < meta[slot, first + SEEN_TO]:
            meta[slot, first + BEST], meta[slot, first + FROM], meta[slot, first + SEEN_TO] = -1, 0, 0


@hot
def insert(meta, pool, count_key, count_n, ctl, windows, columns, caches, shape, slot, times, values, now):
    """Put an event where it belongs in its key's segment, which has room; return its position."""
    time_ms, known_ms = times[now, 0], times[now, 1]
    begin, end = meta[slot, BEGIN], meta[slot, END]
    at = end
    while at > meta[slot, FIRST] and pool[begin + at - 1, 0] > time_ms:
        at -= 1
    if at < end:
        insert_between(meta, pool, windows, caches, slot, at)
    meta[slot, END] = end + 1
    ctl[ROWS_LIVE] += 1
    write_row(pool, columns, shape, begin + at, at == meta[slot, FIRST], time_ms, known_ms, values, now)
    if at < end:
        if at == meta[slot, FIRST]:  # nothing before it: its totals are those of the row it pushed up
            _copy_totals(pool, columns, begin + at)
        for position in range(at + 1, end + 1):
            _add_to_totals(pool, columns, begin + position, begin + at)
        for cache in range(caches.shape[0]):
            first = caches[cache, C_META]
            if caches[cache, C_KIND] == C_COUNTS and meta[slot, first + LOW] <= at < meta[slot, first + HIGH]:
                column = columns[caches[cache, C_COLUMN], 1]
                add_value(meta, count_key, count_n, ctl, caches, slot, cache, pool[begin + at, column], 1)
    if shape[HAS_KNOWN] != 0:
        meta[slot, KNOWN_MAX] = max(meta[slot, KNOWN_MAX], known_ms)
    if meta[slot, END] - meta[slot, FIRST] > shape[ROWS_MAX]:
        if pool[begin + meta[slot, FIRST], 0] > times[now, 2] - shape[RETENTION_MS]:  # a window may still see it
            meta[slot, DROPPED] += 1
            ctl[ROWS_CAPPED] += 1
        drop_front(meta, pool, count_key, count_n, ctl, columns, caches, slot, meta[slot, FIRST] + 1)
    return at


@part
def _copy_totals(pool, columns, row):
    for column in range(columns.shape[0]):
        if columns[column, 4] == 0:
            at = columns[column, 1]
            pool[row, at + 1] = pool[row + 1, at + 1]
            squares = at + 2 + 2 * columns[column, 2]
            if columns[column, 2] != 0:
                pool[row, at + 3] = pool[row + 1, at + 3]
            if columns[column, 3] != 0:
                pool[row, squares] = pool[row + 1, squares]
                pool[row, squares + 1] = pool[row + 1, squares + 1]


@part
def _add_to_totals(pool, columns, row, added):
    for column in range(columns.shape[0]):
        if columns[column, 4] == 0:
            at = columns[column, 1]
            value = pool[added, at]
            pool[row, at + 1] += value
            if columns[column, 2] != 0:
                pool[row, at + 3] += pool[added, at + 2]
            if columns[column, 3] != 0:
                squares = at + 2 + 2 * columns[column, 2]
                low, high = add_product(pool[row, squares], pool[row, squares + 1], value, value)
                pool[row, squares], pool[row, squares + 1] = low, high
