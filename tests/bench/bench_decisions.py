"""How many payments a second are decided, and how long does one wait for its decision?

The demo's app and bundle. Throughput: a replay from files to a CSV file, with features and the learner alone (ftrl),
and with the MoE (moe+ftrl). Latency: another process appends 1,000 payments a second to the embedded log; from append
to committed decision, the first second left out.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from connectors.files import open_files
from connectors.secrets import Sealer, Tokeniser
from connectors.sqlite_log import SqliteLog
from kernels.compiled import load_imported
from models.bundle import read_bundle
from models.scorer import Scorer
from ops.beside import SWITCH_S, now_ms
from ops.demo.stage import APP, BUNDLE
from ops.producer import Producer, Script
from ops.replaying import replay_files
from ops.simulate import SimulationSettings, simulate
from pipeline.app import App
from pipeline.decisions import Served
from pipeline.live import Worker, create_topics
from pipeline.loading import load_app
from tests.bench.measuring import machine, parser

KEY = bytes(range(32))
RATE, WARM_UP_EVENTS = 1_000, 1_000
DAYS = 14


def scorers(app: App) -> dict[str, Scorer]:
    """Return the demo's models by rung."""
    plan = app.plans["payments"]
    whole = Scorer(read_bundle(BUNDLE), None, [plan.specs[column] for column in plan.columns_of["risk"]])
    without_moe = object.__new__(Scorer)
    without_moe.__dict__.update(whole.__dict__ | {"_moe": None})
    return {"ftrl": without_moe, "moe+ftrl": whole}


def throughput(app: App, folder: Path, scorer: Scorer) -> dict[str, Any]:
    """Replay both streams into a file."""
    files = {"payments": folder / "payments.jsonl", "frauds": folder / "frauds.jsonl"}
    streams = {"payments": app.plans["payments"].stream, "frauds": app.plans["payments"].facts}
    inputs = {name: open_files([path], streams[name].schema, name) for name, path in files.items()}  # type: ignore[union-attr]
    served = {"risk": Served(scorer, "bench")}
    before = time.process_time()
    done = replay_files(app, inputs, str(folder / "out.csv"), served=served, tokeniser=Tokeniser(KEY))
    cpu_s = time.process_time() - before
    us = {name: round(seconds / done.events * 1e6, 1) for name, seconds in done.where_time_goes.items()}
    return {
        "events": done.events, "events_per_s": round(done.events / done.seconds),
        "events_per_cpu_s": round(done.events / cpu_s), "decisions": done.decisions, "us_per_event_by_stage": us,
    }  # fmt: skip


def latency(app: App, folder: Path, scorer: Scorer, seconds: int) -> dict[str, Any]:
    """Decide what another process appends."""
    path = folder / f"log-{scorer.rung}.db"
    events = RATE * seconds
    waited: list[np.ndarray] = []
    stages = dict.fromkeys(("fetch", "decode", "features", "score", "encode", "commit"), 0.0)
    with SqliteLog(path, Sealer(KEY)) as log:
        create_topics(app, log)
        served = Served(scorer, "bench")
        worker = Worker(
            app, app.plans["payments"], log, folder / f"state-{scorer.rung}", lambda task: served, now_ms,
            time.perf_counter, Tokeniser(KEY), Sealer(KEY),
        )  # fmt: skip
        load_imported()
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(SWITCH_S)
        command = [sys.executable, __file__, "--produce", str(path), str(folder / "payments.jsonl"), str(events)]
        with subprocess.Popen(command) as producer:
            decided = 0
            while decided < events and producer.poll() in (None, 0):
                step = worker.step()
                if step is None:
                    log.wait(worker.waits_for(), 0.5)
                    continue
                waited.append(step.committed_ms - step.append_ms)
                decided = worker.ledgers["payments"].taken
                for name in stages:
                    stages[name] += step.seconds.get(name, 0.0)
    late = np.concatenate(waited)[WARM_UP_EVENTS:]
    return {
        "events": int(late.size), "p50_ms": float(np.percentile(late, 50)), "p99_ms": float(np.percentile(late, 99)),
        "us_per_event_by_stage": {name: round(spent / decided * 1e6) for name, spent in stages.items()},
    }  # fmt: skip


def produce(path: str, source: str, events: int) -> None:
    """Append lines at RATE a second; times of the events do not matter for how long they wait."""
    lines = Path(source).read_bytes().splitlines(keepends=True)[:events]
    due_ms = np.arange(events, dtype=np.int64) * 1000 // RATE
    with SqliteLog(path, Sealer(KEY)) as log:
        producer = Producer(log, [Script("payments", lines, due_ms)], 1.0, now_ms)
        producer.start()
        producer.wait()
        if producer.problem is not None:
            raise producer.problem


def main() -> None:
    """Run."""
    if "--produce" in sys.argv:
        produce(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    quick = parser(__doc__).parse_args().quick
    app = load_app(str(APP))
    result: dict[str, Any] = {"bench": "decisions"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = SimulationSettings(days=DAYS, events_per_day=(700 if quick else 5_000), cards=1_000, terminals=300)
        simulate(settings, folder)
        for rung, scorer in scorers(app).items():
            replayed = throughput(app, folder, scorer)
            print(json.dumps({"replay": rung, **replayed, **machine()}), flush=True)
            anew = scorers(app)[rung]  # whose reasons remember nothing of the replay
            waited = latency(app, folder, anew, 5 if quick else 30)
            print(json.dumps({"live": rung, **waited, **machine()}), flush=True)
            result |= {
                f"{rung}_events_per_s": replayed["events_per_s"], f"{rung}_p50_ms": waited["p50_ms"],
                f"{rung}_p99_ms": waited["p99_ms"],
            }  # fmt: skip
    print(json.dumps({**result, **machine()}))


if __name__ == "__main__":
    main()
