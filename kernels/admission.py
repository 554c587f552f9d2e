"""Which records of a batch are applied: the judgement of future, late and duplicate, in log order."""

import numpy as np

from kernels.compiled import njit
from kernels.parts import NO_RUNTIME

APPLIED, FUTURE, LATE, DUPLICATE = 0, 1, 2, 3
NEVER_MS = np.int64(2**62)  # the time of a remembered id that does not expire
HIGH_MS, USED = 0, 1


@njit("int64(int64[::1], int64[::1], uint64[::1], uint64[::1], int64[::1], uint64[::1], int64[::1], int64[::1], int8[::1], int64[::1], int64)", **NO_RUNTIME)  # fmt: skip  # noqa: E501
def judge(times_ms, append_ms, ids, redriven, ctl, seen_id, seen_ms, limits_ms, status, floors_ms, start):
    """Judge records one after the other.

    Args:
        times_ms: (records,) event times.
        append_ms: (records,) when the log took them; (0,) if there is no such clock, then none is future.
        ids: (records,) hashes of their ids, never 0.
        redriven: (records,) 0, or for a re-driven dead letter a hash of where it came from.
        ctl: (2,) high time, and how many ids are remembered; changed.
        seen_id, seen_ms: (buckets,) the remembered ids and their event times; changed.
        limits_ms: (3,) lateness, horizon of duplicates, tolerance for future ones.
        status: (records,) written: APPLIED, FUTURE, LATE or DUPLICATE.
        floors_ms: (records,) written: the oldest time that was not late after each record.
        start: first record to judge.

    Returns:
        How many records are judged; fewer than there are if the table of ids must be rebuilt first.
    """
    mask = seen_id.size - 1
    lateness, horizon, tolerance = limits_ms[0], limits_ms[1], limits_ms[2]
    for now in range(start, times_ms.size):
        if (ctl[USED] + 2) * 2 > seen_id.size:
            return now
        time_ms, high = times_ms[now], ctl[HIGH_MS]
        status[now] = APPLIED
        if append_ms.size > 0 and time_ms > append_ms[now] + tolerance:
            status[now] = FUTURE
        elif redriven[now] == 0 and time_ms < high - lateness:
            status[now] = LATE
        else:
            at = np.int64(ids[now] & np.uint64(mask))
            while seen_id[at] != 0 and seen_id[at] != ids[now]:
                at = (at + 1) & mask
            other = at
            if redriven[now] != 0:
                other = np.int64(redriven[now] & np.uint64(mask))
                while seen_id[other] != 0 and seen_id[other] != redriven[now]:
                    other = (other + 1) & mask
            if (seen_id[at] != 0 and seen_ms[at] >= high - horizon) or (redriven[now] != 0 and seen_id[other] != 0):
                status[now] = DUPLICATE
            else:
                if seen_id[at] == 0:
                    seen_id[at] = ids[now]
                    ctl[USED] += 1
                    seen_ms[at] = time_ms
                else:
                    seen_ms[at] = max(seen_ms[at], time_ms)
                if redriven[now] != 0:
                    while seen_id[other] != 0:
                        other = (other + 1) & mask
                    seen_id[other], seen_ms[other] = redriven[now], NEVER_MS
                    ctl[USED] += 1
                ctl[HIGH_MS] = max(high, time_ms)
        floors_ms[now] = ctl[HIGH_MS] - lateness
    return times_ms.size


@njit("int64(uint64[::1], int64[::1], int64, uint64[::1], int64[::1])", **NO_RUNTIME)
def keep_recent(seen_id, seen_ms, oldest_ms, larger_id, larger_ms):
    """Copy the ids of events at `oldest_ms` or later into an empty table; return how many."""
    mask, kept = larger_id.size - 1, 0
    for entry in range(seen_id.size):
        if seen_id[entry] != 0 and seen_ms[entry] >= oldest_ms:
            at = np.int64(seen_id[entry] & np.uint64(mask))
            while larger_id[at] != 0:
                at = (at + 1) & mask
            larger_id[at], larger_ms[at] = seen_id[entry], seen_ms[entry]
            kept += 1
    return kept


@njit("void(int64[::1], int64[::1], int64[::1], int64[::1])", **NO_RUNTIME)
def merge_heads(times_ms, starts, heads, order):
    """Merge inputs that each keep their order: the head with the earliest time goes first, ties in declared order.

    Args:
        times_ms: (records,) of all inputs, one input after the other.
        starts: (inputs + 1,) where each begins.
        heads: (inputs,) scratch.
        order: (records,) written: which record comes at each place.
    """
    inputs = starts.size - 1
    for each in range(inputs):
        heads[each] = starts[each]
    for place in range(order.size):
        best = -1
        for each in range(inputs):
            if heads[each] < starts[each + 1] and (best < 0 or times_ms[heads[each]] < times_ms[heads[best]]):
                best = each
        order[place] = heads[best]
        heads[best] += 1
