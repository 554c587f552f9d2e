"""How far a stage behind several sources has come: the floor that each of its rows sees."""

import numpy as np

from kernels.compiled import njit
from kernels.parts import NO_RUNTIME
from kernels.words import INT64S

EVENT, FLOOR, IDLE = 0, 1, 2  # kinds of rows
UNKNOWN_MS = np.int64(-(2**62))  # of a source that was not heard of


@njit(f"int64(int8[::1], {INT64S}, {INT64S}, int64[::1], int8[::1], int64, int64[::1])", **NO_RUNTIME)
def advance(kinds, sources, floors_ms, source_ms, idle, floor_ms, out):
    """Return the floor after some rows, in log order; it never goes back.

    The floor is the smallest of what the sources said last. One that said it is idle does not count, until it says
    something else; if all are idle, the largest holds: whatever comes later was late for one of them.

    Args:
        kinds: (rows,) EVENT, FLOOR (a source says how far it is) or IDLE (and that it has nothing).
        sources: (rows,) who says it.
        floors_ms: (rows,) the oldest event time that is not late for the source.
        source_ms, idle: (sources,) what each said last; changed. One not heard of is at UNKNOWN_MS and holds the floor.
        floor_ms: before these rows.
        out: (rows,) written: the floor after each row.
    """
    told = -1  # the source of the row before: a floor that does not move, of the same source, changes nothing
    for now in range(kinds.size):
        source = sources[now]
        is_idle = np.int8(kinds[now] == IDLE)
        if source != told or floors_ms[now] > source_ms[source] or idle[source] != is_idle:
            told = source
            idle[source] = is_idle
            source_ms[source] = max(source_ms[source], floors_ms[now])
            smallest, largest, counted = np.int64(2**62), UNKNOWN_MS, 0
            for each in range(source_ms.size):
                largest = max(largest, source_ms[each])
                if idle[each] == 0:
                    smallest = min(smallest, source_ms[each])
                    counted += 1
            floor_ms = max(floor_ms, smallest if counted > 0 else largest)
        out[now] = floor_ms
    return floor_ms
