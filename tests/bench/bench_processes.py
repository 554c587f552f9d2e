"""Is a network trained faster by two processes than by one, on the two cores that both have?

The demo's payments, made up, are trained on in turns by one process with one thread and by `pelton train
--distributed 2`, a thread each. Seconds are those of the network's steps and validations, without start
and replay; two processes take the same steps of the same batches. What else runs on the machine slows two down more.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from ops.inputs import open_inputs
from ops.settings import Settings
from ops.simulate import SimulationSettings, simulate
from ops.training.joint_training import train_together
from ops.training.training import TrainingSettings
from pipeline.loading import load_app
from tests.bench.measuring import REPOSITORY, parser, run

APP = str(REPOSITORY / "ops" / "demo" / "payments.py")


def one(folder: Path, out: Path, quick: bool) -> dict:
    """Train in this process; return the report of the network."""
    app = load_app(APP)
    tokeniser, _ = Settings.read(folder / "data").secrets(app, make=True)
    files = open_inputs(app, [str(folder / name) for name in ("payments.jsonl", "frauds.jsonl")])
    wanted = TrainingSettings(epochs=2, quick=quick)
    train_together(app, app.tasks, files, wanted, out, tokeniser=tokeniser)
    return report(out)


def two(folder: Path, out: Path, quick: bool) -> dict:
    """Train by `pelton train --distributed 2`; return the report of the network."""
    data = [str(folder / "payments.jsonl"), str(folder / "frauds.jsonl")]
    run([sys.executable, "-m", "ops.cli", "train", APP, "--data", *data, "--epochs", "2", "--no-register", "--out",
         str(out), "--data-folder", str(folder / "data"), "--distributed", "2",
         *(["--quick"] if quick else [])])  # fmt: skip
    return report(out)


def report(out: Path) -> dict:
    """Read what a training tells of itself."""
    return json.loads((out / "network" / "training_report.json").read_text())


def main() -> None:
    asked = parser(__doc__).parse_args()
    settings = SimulationSettings(days=6, events_per_day=1500, cards=200, fraud_rate=0.05, drift=False, seed=3)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        simulate(settings, folder)
        took: dict[str, list[float]] = {"one": [], "two": []}
        scores = {}
        for turn in range(1 if asked.quick else 3):
            for name, found in (
                ("one", one(folder, folder / f"a{turn}", asked.quick)),
                ("two", two(folder, folder / f"c{turn}", asked.quick)),
            ):
                took[name].append(found["seconds"])
                scores[name] = round(found["score"], 3)
    best = {name: min(its) for name, its in took.items()}
    print(json.dumps({
        "seconds": best, "two_processes_times_faster": round(best["one"] / best["two"], 2),
        "average_precision": scores,
        "load": round(os.getloadavg()[0], 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
