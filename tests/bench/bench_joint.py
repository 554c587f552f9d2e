"""Is one network for two tasks as good as two networks of the same active size?

Two tasks on a simulated stream of payments: frauds by what is known of the card, and by what is known of the terminal.
Judged on the last 30 % of the time, which no network learns; each seed is a training of its own.

    python -m tests.bench.bench_joint --days 30 --seeds 2
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from connectors.files import open_files
from models.metrics import average_precision, log_loss, roc_auc
from models.moe.settings import MoESettings
from models.train.dataset import Sampling
from models.train.events import EventData
from models.train.joint import fit
from models.train.settings import TrainSettings
from ops.simulate import SimulationSettings, simulate
from ops.training.history import as_known, read_history
from pipeline import App, Stream, Task
from pipeline.dataset import Dataset

TEST_SHARE = 0.3
SIZES = MoESettings(width=64, experts=16, expert_width=64, shared_width=64, head_width=64, buckets=512)


def histories(folder: Path, days: int) -> dict[str, Dataset]:
    """Simulate payments and replay them for both tasks."""
    texts = dict.fromkeys(("card", "terminal", "device", "place", "channel"), "string")
    payments = Stream("payments", id="event_id", time="ts", fields={**texts, "amount": "money"})
    frauds = Stream("frauds", id="event_id", time="reported_at", fields={"is_fraud": "bool"})
    card, terminal = payments.by("card"), payments.by("terminal")
    of_card = {
        "amount": payments.amount, "channel": payments.channel,
        "count_1h": card.last("1h").count(), "count_1d": card.last("24h").count(),
        "places_24h": card.last("24h").distinct("place"), "device_is_known": card.last("30d").seen("device"),
        "amount_zscore_30d": card.last("30d").zscore("amount"),
    }  # fmt: skip
    of_terminal = {
        "amount": payments.amount, "channel": payments.channel, "terminal": payments.terminal,
        "terminal_1h": terminal.last("1h").count(), "rate_3d": terminal.last("3d", delay="1d").rate(frauds.is_fraud),
        "rate_14d": terminal.last("14d", delay="1d").rate(frauds.is_fraud),
        "amount_zscore_7d": terminal.last("7d").zscore("amount"),
    }  # fmt: skip
    tasks = [
        Task("card", on=payments, features=of_card, label=frauds.is_fraud),
        Task("terminal", on=payments, features=of_terminal, label=frauds.is_fraud),
    ]
    app = App("bank", tasks)
    simulate(SimulationSettings(days=days, events_per_day=1500, fraud_rate=0.03, drift=False, seed=5), folder)
    found = {}
    for task in tasks:
        files = {
            each.name: open_files([folder / f"{each.name}.jsonl"], each.schema, each.name)
            for each in (payments, frauds)
        }
        found[task.name] = as_known(read_history(app, task, files), None)
    return found


def figures(known: Dataset, logits: np.ndarray, later: np.ndarray) -> dict[str, float]:
    """Judge logits of the test part."""
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    labels = known.labels[later]
    return {
        "average_precision": round(average_precision(scores, labels), 4), "auc": round(roc_auc(scores, labels), 4),
        "log_loss": round(log_loss(scores, labels), 5),
    }  # fmt: skip


def main() -> None:
    """Print a line of JSON per training."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--days", type=int, default=30)
    asked.add_argument("--seeds", type=int, default=2)
    asked.add_argument("--epochs", type=int, default=6)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        known = histories(Path(scratch), given.days)
        later = {task: data.times_ms >= np.quantile(data.times_ms, 1 - TEST_SHARE) for task, data in known.items()}
        for seed in range(given.seeds):
            sampling = Sampling(batch=256, negatives_per_positive=10, seed=seed)
            data = {
                task: EventData(
                    its.features[~later[task]], its.specs, its.labels[~later[task]].astype(np.uint8),
                    its.times_ms[~later[task]], sampling,
                )
                for task, its in known.items()
            }  # fmt: skip
            settings = TrainSettings(epochs=given.epochs, seed=seed, device="cpu")
            for tasks in (["card", "terminal"], ["card"], ["terminal"]):
                started = time.perf_counter()
                trained = fit({task: data[task] for task in tasks}, settings, Path(scratch) / "out", sizes=SIZES)
                for task in tasks:
                    logits = trained.predict(known[task].features[later[task]], task)
                    loads = trained.report["loads"]
                    told = {
                        "trained": " + ".join(tasks), "task": task, "seed": seed,
                        **figures(known[task], logits, later[task]),
                        "positives": int(known[task].labels[later[task]].sum()),
                        "max_violation": [load["max_violation"] for load in loads],
                        "dead": [load["dead_experts"] for load in loads],
                        "seconds": round(time.perf_counter() - started, 1),
                    }  # fmt: skip
                    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
