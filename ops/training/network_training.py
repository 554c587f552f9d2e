"""The network's part of a training: fit for one task or several, export each, the logits that it will serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.scorer import MOE
from ops.progress import Progress, Stage
from pipeline.dataset import Dataset

if TYPE_CHECKING:
    from models.moe.settings import MoESettings
    from models.train.events import EventData
    from models.train.joint import Progress as NetworkProgress
    from models.train.joint import Trained
    from models.train.task_data import TaskData

Float64s = NDArray[np.float64]
ROWS_AT_ONCE = 512
EPOCH_ROWS_MIN = 30_000  # where positives are few, an epoch takes more negatives
STEPS_MIN = 60  # of an epoch; where events are few, batches are smaller
BATCH_MIN, BATCH_MAX = 64, 512
EPOCHS_QUICK = 2
GATE_ROWS = 5_000  # rows of history that the parity gate draws from


@dataclass(frozen=True)
class NetworkSettings:
    """What a training chooses about its network; see `ops.training.training.TrainingSettings`."""

    epochs: int
    seed: int
    held_back: float
    quick: bool
    resume: bool
    device: str
    threads: int


@dataclass(frozen=True)
class TrainedNetwork:
    """What one task serves of a trained network.

    Attributes:
        path: the ONNX file.
        report_path: of the training, which may have been of several tasks.
        tasks: that it was trained with, itself included.
    """

    path: Path
    report_path: Path
    tasks: tuple[str, ...]


def train_networks(
    known: Mapping[str, Dataset], settings: NetworkSettings, folder: Path, progress: Progress
) -> dict[str, TrainedNetwork]:
    """Train one network for tasks on events, and export what each of them needs of it.

    Args:
        known: task -> what it may learn from.
        settings: choices.
        folder: for checkpoint, report and plots; ONNX files, too, those of several tasks in folders of their own.
        progress: told often.
    """
    trained = fit_tasks({task: event_data(data, settings) for task, data in known.items()}, settings, folder, progress)
    made = {}
    for task, data in known.items():
        path = (folder if len(known) == 1 else folder / task) / MOE
        path.parent.mkdir(exist_ok=True)
        _export(trained, task, data, path, progress)
        made[task] = TrainedNetwork(path, folder / "training_report.json", tuple(known))
    return made


def fit_tasks(tasks: Mapping[str, TaskData], settings: NetworkSettings, folder: Path, progress: Progress) -> Trained:
    """Train one network for tasks of any kind; see `models.train.joint.fit`."""
    from models.train.joint import fit
    from models.train.settings import TrainSettings

    def tell(step: NetworkProgress) -> None:
        note = f"epoch {step.epoch} of {step.epochs}, loss {step.loss:.4f}"
        for task, figure in step.figures.items():
            name = tasks[task].figure.replace("_", " ")
            note += f", {name} {figure:.3f}" if len(tasks) == 1 else f", {task} {name} {figure:.3f}"
        progress(Stage("network", step.step, step.steps, note))

    wanted = TrainSettings(
        epochs=min(EPOCHS_QUICK, settings.epochs) if settings.quick else settings.epochs,
        seed=settings.seed, device=settings.device, threads=settings.threads,
    )  # fmt: skip
    trained = fit(tasks, wanted, folder, tell, sizes=_sizes(settings), resume=settings.resume)
    progress(Stage("network", 1, 1, f"epoch {trained.report['best_epoch']} is the best"))
    return trained


def event_data(known: Dataset, settings: NetworkSettings) -> EventData:
    """Return events as what a network is trained on."""
    from models.train.dataset import Sampling
    from models.train.events import EventData

    labels = known.labels.astype(np.uint8)
    positives = int(labels.sum())
    negatives = max(10.0, EPOCH_ROWS_MIN / max(positives, 1))  # for each positive
    rows = min(len(known), positives * (1 + negatives)) * (1 - settings.held_back)
    batch = 1 << int(np.log2(max(rows / STEPS_MIN, 1)))
    sampling = Sampling(
        batch=int(np.clip(batch, BATCH_MIN, BATCH_MAX)), negatives_per_positive=negatives,
        validation_share=settings.held_back, seed=settings.seed,
    )  # fmt: skip
    return EventData(known.features, known.specs, labels, known.times_ms, sampling)


def _export(trained: Trained, task: str, known: Dataset, path: Path, progress: Progress) -> None:
    from models.export import export

    progress(Stage("export", 0, 1))
    exported = export(trained.network, path, known.features[:: -(-len(known) // GATE_ROWS)], task=task)
    progress(Stage("export", 1, 1, exported.in_words()))


def remembered(report_path: Path, task: str) -> bytes:
    """Return what a bundle keeps of a training report: what is equal in equal trainings, and in no other part."""
    report = msgspec.json.decode(report_path.read_bytes())
    its = report.pop("tasks")
    told = {name: value for name, value in its[task].items() if name != "columns"}
    told |= {name: value for name, value in report.items() if name != "seconds"}
    best = report["epochs"][report["best_epoch"] - 1]["tasks"][task]
    told |= {"tasks": list(its), "loads": best["loads"], "validation": best["validation"]}
    return msgspec.json.encode(told)


def _sizes(settings: NetworkSettings) -> MoESettings:
    from models.moe.settings import MoESettings

    if not settings.quick:
        return MoESettings()
    return MoESettings(
        width=32, heads=2, experts=4, expert_width=32, shared_width=32, tokens_max=6, head_width=32, buckets=512
    )


def served_logits(path: Path, known: Dataset, progress: Progress) -> Float64s:
    """Return the network's logits of all events, from the runtime that will serve it."""
    from models.moe_runtime import OnnxMoE

    network = OnnxMoE(path, known.specs, buckets=(ROWS_AT_ONCE,))
    logits = np.full(len(known), np.nan)
    for first in range(0, len(known), 16 * ROWS_AT_ONCE):
        rows = slice(first, first + 16 * ROWS_AT_ONCE)
        logits[rows] = network.logits(known.features[rows])
        progress(Stage("scores", min(rows.stop, len(known)), len(known)))
    return logits
