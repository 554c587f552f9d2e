"""What does a snapshot of a million events' state cost the events that come meanwhile, and what is written?

The state of the app "card features" after so many events; then 1,000 events/s, four at a time, for some seconds, each
batch timed from when it was due until its features are there: without snapshots, with the state copied at once, and
copied between batches, each written by a thread to a folder. Then the bytes of a whole snapshot and of the next ones,
and a restore from them, the features of the next events compared bit for bit.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from connectors.files import open_files
from connectors.memory_log import MemoryLog
from connectors.records import Chunk
from kernels.compiled import load_imported
from pipeline.engine import Engine
from pipeline.loading import load_app
from pipeline.replay import split
from pipeline.snapshots import Snapshots
from pipeline.state_store import StateStore
from tests.bench.measuring import APP, machine, parser, workload

BATCH, EVERY_S = 4, 0.004
SWITCH_S = 0.0005  # as the worker sets it


def paced(engine: Engine, batches: list[Chunk], between: Callable[[int], object]) -> dict[str, float]:
    """Process batches when they are due; return how long after that each was done, in ms."""
    took_ms, until_due = np.zeros(len(batches)), threading.Event()
    began_s = time.perf_counter()
    for number, batch in enumerate(batches):
        due_s = began_s + EVERY_S * number
        if (wait_s := due_s - time.perf_counter()) > 0:
            until_due.wait(wait_s)
        engine.process({"payments": batch})
        took_ms[number] = (time.perf_counter() - due_s) * 1e3
        between(number)
    return {"p50": round(float(np.median(took_ms)), 2), "p99": round(float(np.quantile(took_ms, 0.99)), 2),
            "max": round(float(took_ms.max()), 2)}  # fmt: skip


def at_once(store: StateStore) -> Callable[[Engine, int], None]:
    """Return what copies the whole state at once every second, and lets a thread write it."""

    def save(engine: Engine, number: int) -> None:
        if number % int(1 / EVERY_S) == 1:
            state = engine.save()
            threading.Thread(target=store.save, args=(number + 1, state), daemon=True).start()

    return save


def main() -> None:
    """Run."""
    quick = parser(__doc__).parse_args().quick
    events, timed = (100_000, 2_000) if quick else (1_000_000, 6_000)
    plan = load_app(str(APP)).plans["payments"]
    chunks = list(open_files([workload(events + 3 * timed + 4_000)], plan.stream.schema, "payments"))
    engine, batches, done = Engine(plan), [], 0
    for chunk in chunks:
        head, left = split(chunk, min(max(events - done, 0), len(chunk)))
        done += len(head)
        if len(head):
            engine.process({"payments": head})
        while len(left):
            first, left = split(left, min(BATCH, len(left)))
            batches.append(first)
    load_imported()
    sys.setswitchinterval(SWITCH_S)
    count = timed // BATCH
    print(json.dumps({"bench": "snapshots", **run(engine, batches, count), **machine()}))


def run(engine: Engine, batches: list[Chunk], count: int) -> dict[str, Any]:
    """Time the three ways in turn."""
    with tempfile.TemporaryDirectory() as name:
        found: dict[str, Any] = {"none_ms": paced(engine, batches[:count], lambda number: None)}
        save = at_once(StateStore(Path(name) / "once"))
        found["at_once_ms"] = paced(engine, batches[count : 2 * count], lambda number: save(engine, number))
        store, log = StateStore(Path(name) / "steps"), MemoryLog()
        snapshots = Snapshots(store, log, "g", 0, lambda: time.time_ns() // 1_000_000, time.perf_counter)
        sizes, writes = [], [0]

        def step(number: int) -> None:
            snapshots.step(engine, number + 1, {}, 1_000)
            if snapshots.written > writes[0]:
                writes[0] = snapshots.written
                sizes.append(store.bytes_written - sum(sizes))

        found["in_steps_ms"] = paced(engine, batches[2 * count : 3 * count], step)
        snapshots.save(engine, count + 1, {})
        before_s = time.perf_counter()
        restored, snapshot = Engine(engine.plan), StateStore(Path(name) / "steps").newest(count + 1)
        assert snapshot is not None, "the snapshot that was just written is not there"
        restored.restore(*snapshot.layers)
        found |= {"restore_s": round(time.perf_counter() - before_s, 2), "layers": len(snapshot.layers)}
        found |= {"whole_mb": round(sizes[0] / 1e6, 2), "next_mb": [round(each / 1e6, 2) for each in sizes[1:]]}
    for batch in batches[3 * count :]:
        expected, got = (each.process({"payments": batch}).matrix for each in (engine, restored))
        np.testing.assert_array_equal(got.view(np.uint64), expected.view(np.uint64))
    return found | {"rows": sum(group.statistics()["rows"] for group in restored.groups)}


if __name__ == "__main__":
    main()
