"""The network's part of a training: fit, export, the logits that it will serve."""

from __future__ import annotations

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
    from models.train.settings import TrainSettings
    from models.train.trainer import Progress as NetworkProgress

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


def train_network(known: Dataset, settings: NetworkSettings, folder: Path, progress: Progress) -> tuple[bytes, Path]:
    """Train, export and check the network; return the ONNX file's bytes and the path of the report."""
    from models.export import export
    from models.train.trainer import fit

    def tell(step: NetworkProgress) -> None:
        note = f"epoch {step.epoch} of {step.epochs}, loss {step.loss:.4f}"
        if step.validation_ap is not None:
            note += f", average precision {step.validation_ap:.3f}"
        progress(Stage("network", step.step, step.steps, note))

    trained = fit(
        known.features, known.specs, known.labels.astype(np.uint8), known.times_ms,
        _network_settings(settings, len(known), int(known.labels.sum())),
        folder, tell, sizes=_sizes(settings), resume=settings.resume,
    )  # fmt: skip
    progress(Stage("network", 1, 1, f"epoch {trained.report['best_epoch']} is the best"))
    progress(Stage("export", 0, 1))
    report = export(trained.network, folder / MOE, known.features[:: -(-len(known) // GATE_ROWS)])
    worst = max(report.differences.values())
    progress(Stage("export", 1, 1, f"{report.size_bytes / 1e6:.1f} MB, equal to torch within {worst:.0e}"))
    return (folder / MOE).read_bytes(), folder / "training_report.json"


def remembered(report_path: Path) -> bytes:
    """Return what a bundle keeps of a training report: what is equal in equal trainings, and in no other part."""
    report = msgspec.json.decode(report_path.read_bytes())
    return msgspec.json.encode({name: value for name, value in report.items() if name not in ("seconds", "columns")})


def _network_settings(settings: NetworkSettings, events: int, positives: int) -> TrainSettings:
    from models.train.settings import TrainSettings

    negatives = max(10.0, EPOCH_ROWS_MIN / max(positives, 1))  # for each positive
    rows = min(events, positives * (1 + negatives)) * (1 - settings.held_back)
    batch = 1 << int(np.log2(max(rows / STEPS_MIN, 1)))
    return TrainSettings(
        epochs=min(EPOCHS_QUICK, settings.epochs) if settings.quick else settings.epochs,
        seed=settings.seed,
        validation_share=settings.held_back,
        negatives_per_positive=negatives,
        batch=int(np.clip(batch, BATCH_MIN, BATCH_MAX)),
        device=settings.device,
        threads=settings.threads,
    )


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
