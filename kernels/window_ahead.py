"""Fetching what the next events will touch, while this one is worked on: memory is what a window engine waits for."""

import numpy as np

from kernels.parts import hot
from kernels.prefetch import prefetch
from kernels.window_counts import name_of
from kernels.window_state import BEGIN, C_COLUMN, C_COUNTS, C_KIND, C_META, CAPACITY, END, HINTS, LOW, find_slot, mix


@hot
def look_ahead(table, slot_key, meta, pool, count_key, count_n, windows, columns, caches, kinds, keys, values, now):
    """Fetch what later events will touch, in four steps of which each needs what the one before it fetched."""
    if now + 12 < kinds.size:
        prefetch(table, np.int64(mix(keys[now + 12], np.uint64(0)) & np.uint64(table.size - 1)))
    if now + 8 < kinds.size:
        slot = find_slot(table, slot_key, keys[now + 8])
        if slot >= 0:
            first = slot * meta.shape[1]
            prefetch(meta, first)
            prefetch(meta, first + 8)
            prefetch(meta, first + meta.shape[1] - 1)
    if now + 4 < kinds.size:
        slot = find_slot(table, slot_key, keys[now + 4])
        if slot >= 0 and meta[slot, CAPACITY] > 0:
            width, begin = pool.shape[1], meta[slot, BEGIN]
            newest = begin + min(meta[slot, END], meta[slot, CAPACITY] - 1)
            prefetch(pool, newest * width)
            prefetch(pool, newest * width + width - 1)
            prefetch(pool, max(newest - 1, 0) * width)
            for window in range(windows.shape[0]):
                oldest = begin + min(meta[slot, HINTS + window], meta[slot, CAPACITY] - 1)
                prefetch(pool, oldest * width)
                prefetch(pool, oldest * width + width - 1)
    if now + 2 < kinds.size and caches.shape[0] > 0:
        slot = find_slot(table, slot_key, keys[now + 2])
        if slot >= 0 and meta[slot, CAPACITY] > 0:
            for cache in range(caches.shape[0]):
                if caches[cache, C_KIND] == C_COUNTS:
                    column = caches[cache, C_COLUMN]
                    low = meta[slot, caches[cache, C_META] + LOW]
                    look_for(count_key, count_n, name_of(slot, cache, values[now + 2, columns[column, 0]]))
                    oldest = meta[slot, BEGIN] + min(low, meta[slot, CAPACITY] - 1)
                    look_for(count_key, count_n, name_of(slot, cache, pool[oldest, columns[column, 1]]))


@hot
def look_for(count_key, count_n, name):
    """Fetch where the count of a value is."""
    at = np.int64(name & np.uint64(count_key.size - 1))
    prefetch(count_key, at)
    prefetch(count_n, at)
