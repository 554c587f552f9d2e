"""Do values drift, and what do the worst streams cost?

Drift: events go through one group of windows, in batches; then the features of the last one are compared, bit for
bit, with those of a fresh group that saw the last span alone. Worst streams: a maximum that leaves with every event,
a hot key in which every event is out of order, one whose every event is the same.
"""

from __future__ import annotations

import json
import resource
import time

import numpy as np
from numpy.typing import NDArray

from kernels import window_features as wf
from kernels import window_state as ws
from kernels.windows import INSERT, QUERY
from pipeline.groups import Group
from tests.bench.measuring import parser

EVENTS, BATCH, SPAN_MS, LARGEST = 100_000_000, 100_000, 500, 1 << 46
STEADY = (wf.COUNT_OF, wf.SUM, wf.MEAN, wf.STD, wf.MAX, wf.MIN, wf.LAST, wf.ZSCORE, wf.DISTINCT_OF, wf.ENTROPY)
Int64s = NDArray[np.int64]


def group_of(operations: tuple[int, ...], span_ms: int, rows_max: int) -> Group:
    """Return one window over a number, and over the hash of a value."""
    columns = [(0, 1, 0, 1, 0), (1, 5, 0, 0, 1)]
    kinds = {wf.MAX: ws.C_MAX, wf.MIN: ws.C_MIN, wf.DISTINCT_OF: ws.C_COUNTS, wf.ENTROPY: ws.C_COUNTS}
    program, caches, meta = [], [], ws.HINTS + 1
    for operation in operations:
        hashed = int(kinds.get(operation) == ws.C_COUNTS)
        program.append((operation, 0, hashed, len(caches), 0))
        if operation in kinds:
            caches.append((kinds[operation], 0, hashed, meta, 1))
            meta += 4
    plan = ws.Plan(
        np.array([(span_ms, 0)], np.int64), np.array(columns, np.int64), np.array(caches, np.int64).reshape(-1, 5),
        np.array(program, np.int64), np.ones(len(program)), np.array([6, 0, rows_max, span_ms], np.int64),
    )  # fmt: skip
    return Group(plan, meta)


def push(group: Group, times_ms: Int64s, values: Int64s, floor_ms: int, keys: int = 1) -> NDArray[np.float64]:
    """Apply events, and return the features of each."""
    inputs = np.stack([values, values % 7 + 1], axis=1)
    times = np.stack([times_ms, times_ms, np.full(times_ms.size, floor_ms)], axis=1)
    each = (np.arange(times_ms.size) % keys + 1).astype(np.uint64)
    return group.update(np.full(times_ms.size, INSERT | QUERY, np.int8), each, times, inputs, floor_ms)


def drift(events: int) -> dict[str, object]:
    """Push events and compare the end with a fresh start."""
    draw = np.random.default_rng(11)
    group = group_of(STEADY, SPAN_MS, 4_096)
    kept_times, kept_values, time_ms, spent_s = np.zeros(0, np.int64), np.zeros(0, np.int64), 0, 0.0
    for _ in range(events // BATCH):
        times = time_ms + np.cumsum(draw.integers(0, 12, BATCH))
        values = draw.integers(-LARGEST, LARGEST, BATCH)
        floor_ms, time_ms = time_ms, int(times[-1])
        start = time.perf_counter()
        push(group, times, values, floor_ms)
        spent_s += time.perf_counter() - start
        inside = times > time_ms - SPAN_MS
        kept_times, kept_values = times[inside], values[inside]
    fresh = group_of(STEADY, SPAN_MS, 4_096)
    push(fresh, kept_times, kept_values, 0)
    one, other = (push(each, kept_times[-1:], kept_values[-1:], time_ms) for each in (group, fresh))
    return {
        "events": events // BATCH * BATCH, "events_per_s": round(events / spent_s), "window": int(one[0, 0]),
        "same_bits": bool(np.array_equal(one.view(np.int64), other.view(np.int64))),
        "state_bytes": group.statistics()["bytes"], "rows": group.statistics()["rows"],
    }  # fmt: skip


def worst(name: str, times_ms: Int64s, values: Int64s, operations: tuple[int, ...]) -> None:
    """Print what an event of a stream costs, at several sizes of the window."""
    for rows in (100, 1_000, 10_000):
        group, best_ns = group_of(operations, 1 << 40, rows), np.inf
        for at in range(0, times_ms.size - 5_000 + 1, 5_000):
            start = time.perf_counter()
            push(group, times_ms[at : at + 5_000], values[at : at + 5_000], 0)
            if at >= rows:  # the window is full
                best_ns = min(best_ns, (time.perf_counter() - start) / 5_000 * 1e9)
        print(json.dumps({"stream": name, "rows": rows, "ns_per_event": round(best_ns)}))


def main() -> None:
    """Print the worst streams, then the drift, one JSON object a line."""
    quick = parser(__doc__).parse_args().quick
    count = 3_000 if quick else 30_000
    rising, same = np.arange(1, count + 1), np.full(count, 7)
    usual = np.random.default_rng(1).integers(0, 1_000, count)
    out_of_order = (rising // 1_000 + 1) * 1_000 - rising % 1_000  # a thousand at a time, backwards
    worst("usual, maximum", rising, usual, (wf.MAX,))
    worst("falling, maximum leaves with every event", rising, -rising, (wf.MAX,))
    worst("usual, all", rising, usual, STEADY)
    worst("every event out of order, all", out_of_order, usual, STEADY)
    worst("all the same, all", rising, same, STEADY)
    found = drift(1_000_000 if quick else EVENTS)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(found))
    if not found["same_bits"]:
        raise SystemExit("the features after all events are not those of the last span alone")


if __name__ == "__main__":
    main()
