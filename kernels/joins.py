"""Facts that become known after their event: labels joined by event id, each once, as of when it was known."""

import numpy as np

from kernels.compiled import njit
from kernels.parts import NO_RUNTIME, part

# Columns of `rows`, one per event id; the event's keys follow.
TIME_MS, KNOWN_MS, VALUE, STAGE, KEYS = 0, 1, 2, 3, 4
EVENT_ONLY, JOINED, LABEL_ONLY = 1, 2, 3
USED, JOINS, WAITING, UNMATCHED, SUPERSEDED, DUPLICATE = range(6)
NOTHING, FACT = 0, 1


@part
def _forget(rows, ctl, at):
    if rows[at, STAGE] == LABEL_ONLY:
        ctl[WAITING] -= 1
        ctl[UNMATCHED] += 1
    rows[at, STAGE] = 0


@part
def _tell(rows, at, made, fact, fact_keys, now, value, weight):
    made[now] = FACT
    fact[now, 0], fact[now, 1] = rows[at, TIME_MS], rows[at, KNOWN_MS]
    fact[now, 2], fact[now, 3] = value, weight
    for key in range(fact_keys.shape[1]):
        fact_keys[now, key] = np.uint64(rows[at, KEYS + key])


@njit("int64(int8[::1], uint64[::1], int64[:,::1], uint64[:,::1], int64[::1], uint64[::1], int64[:,::1], int64[::1], int64, int8[::1], int64[:,::1], uint64[:,::1], int64)", **NO_RUNTIME)  # fmt: skip  # noqa: E501
def join(is_label, ids, facts, keys, floors_ms, table, rows, ctl, horizon_ms, made, fact, fact_keys, start):
    """Join labels to events, in merged order.

    Args:
        is_label: (operations,) 1 for a label, 0 for an event.
        ids: (operations,) hashes of the event id, never 0.
        facts: (operations, 3) time (an event's own, a label's when it was known), value, 0.
        keys: (operations, keys) the event's keys; a label has none.
        floors_ms: (operations,) the oldest event time not late; ids older by `horizon_ms` are forgotten.
        table, rows: (buckets,) and (buckets, 4 + keys), what is known of each id; changed.
        ctl: (6,) counters; changed.
        made: (operations,) written: FACT where a fact became known.
        fact: (operations, 4) written: the event's time, when the fact was known, what it adds to the sum, to the count.
            A label that corrects an earlier one adds the difference, and nothing to the count; it is known no sooner
            than what it corrects.
        fact_keys: (operations, keys) written: the event's keys.
        start: first operation.

    Returns:
        How many operations are done; fewer than there are if the table must be rebuilt first.
    """
    mask = table.size - 1
    for now in range(start, ids.size):
        if (ctl[USED] + 1) * 2 > table.size:
            return now
        made[now] = NOTHING
        at = np.int64(ids[now] & np.uint64(mask))
        while table[at] != 0 and table[at] != ids[now]:
            at = (at + 1) & mask
        if table[at] != 0 and rows[at, TIME_MS] <= floors_ms[now] - horizon_ms:
            _forget(rows, ctl, at)
        if table[at] == 0:
            table[at] = ids[now]
            rows[at, STAGE] = 0
            ctl[USED] += 1
        stage = rows[at, STAGE]
        if is_label[now] == 0:
            if stage in (EVENT_ONLY, JOINED):
                continue  # a re-driven copy: the first one stands
            for key in range(keys.shape[1]):
                rows[at, KEYS + key] = np.int64(keys[now, key])
            rows[at, TIME_MS] = facts[now, 0]
            rows[at, STAGE] = EVENT_ONLY
            if stage == LABEL_ONLY:
                rows[at, STAGE] = JOINED
                ctl[WAITING] -= 1
                ctl[JOINS] += 1
                _tell(rows, at, made, fact, fact_keys, now, rows[at, VALUE], 1)
        elif stage == 0:
            rows[at, TIME_MS], rows[at, KNOWN_MS], rows[at, VALUE] = facts[now, 0], facts[now, 0], facts[now, 1]
            rows[at, STAGE] = LABEL_ONLY
            ctl[WAITING] += 1
        elif stage == EVENT_ONLY:
            rows[at, STAGE], rows[at, KNOWN_MS], rows[at, VALUE] = JOINED, facts[now, 0], facts[now, 1]
            ctl[JOINS] += 1
            _tell(rows, at, made, fact, fact_keys, now, facts[now, 1], 1)
        elif rows[at, VALUE] == facts[now, 1]:
            ctl[DUPLICATE] += 1
        else:
            difference = facts[now, 1] - rows[at, VALUE]
            rows[at, VALUE], rows[at, KNOWN_MS] = facts[now, 1], max(rows[at, KNOWN_MS], facts[now, 0])
            ctl[SUPERSEDED] += 1
            if stage == JOINED:
                _tell(rows, at, made, fact, fact_keys, now, difference, 0)
    return ids.size


@njit("int64(uint64[::1], int64[:,::1], int64, int64[::1], uint64[::1], int64[:,::1])", **NO_RUNTIME)
def keep_open(table, rows, oldest_ms, ctl, larger, larger_rows):
    """Copy the ids newer than `oldest_ms` into an empty table; labels that waited in vain count as unmatched."""
    mask, kept = larger.size - 1, 0
    for entry in range(table.size):
        if table[entry] == 0 or rows[entry, STAGE] == 0:
            continue
        if rows[entry, TIME_MS] <= oldest_ms:
            _forget(rows, ctl, entry)
            continue
        at = np.int64(table[entry] & np.uint64(mask))
        while larger[at] != 0:
            at = (at + 1) & mask
        larger[at] = table[entry]
        for column in range(rows.shape[1]):
            larger_rows[at, column] = rows[entry, column]
        kept += 1
    return kept
