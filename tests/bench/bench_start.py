"""How long until the command line answers, a replay begins, and a million events' state is back?

Whole processes: `pelton --help`, and a replay of a thousand events (imports and kernels loaded; nothing else weighs).
Restore: the state of the app "card features" after so many events, written to disk as a worker does and taken back into
a new engine, the features of the next events compared bit for bit.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from connectors.files import open_files
from pipeline.engine import Engine
from pipeline.loading import load_app
from pipeline.state_store import StateStore
from tests.bench.measuring import APP, PELTON, in_turns, machine, parser, workload


def start(folder: Path) -> dict[str, Any]:
    """Time whole processes."""
    source = str(workload(1_000))
    replay = [*PELTON, "replay", str(APP), "--features-only", "--input", source, "--output", str(folder / "out.csv")]
    best = in_turns({"help": [*PELTON, "--help"], "replay": replay}, 5)
    return {f"{name}_s": round(run.wall_s, 3) for name, run in best.items()} | {
        "replay_cpu_s": round(best["replay"].cpu_s, 3)
    }


def restore(folder: Path, events: int) -> dict[str, Any]:
    """Save and restore an engine's state."""
    plan = load_app(str(APP)).plans["payments"]
    chunks = list(open_files([workload(events)], plan.stream.schema, "payments"))
    engine = Engine(plan)
    for chunk in chunks[:-1]:
        engine.process({"payments": chunk})
    store = StateStore(folder / "state")
    before = time.perf_counter()
    store.save(1, engine.save())
    saved_s = time.perf_counter() - before
    before = time.perf_counter()
    found = StateStore(folder / "state").newest(1)
    assert found is not None, "the snapshot that was just written is not there"
    again = Engine(plan)
    again.restore(*found.layers)
    restored_s = time.perf_counter() - before
    expected, got = (each.process({"payments": chunks[-1]}).matrix for each in (engine, again))
    np.testing.assert_array_equal(got.view(np.uint64), expected.view(np.uint64))
    rows = sum(group.statistics()["rows"] for group in again.groups)
    return {
        "save_s": round(saved_s, 2),
        "restore_s": round(restored_s, 2),
        "mb": round(store.bytes_written / 1e6),
        "rows": rows,
    }


def main() -> None:
    """Run."""
    quick = parser(__doc__).parse_args().quick
    with tempfile.TemporaryDirectory() as name:
        started, restored = start(Path(name)), restore(Path(name), 100_000 if quick else 1_000_000)
    print(json.dumps({"bench": "start", **started, **restored, **machine()}))


if __name__ == "__main__":
    main()
