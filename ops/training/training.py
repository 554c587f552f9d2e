"""From history to a bundle: network, online learner and the blend of both, each judged by what it has not learned.

Time decides who learns what. The network learns all settled events but the newest, the *held-back* part (15 %), which
only chooses its best epoch. The learner then learns all of them in the order in which their labels became known. What
it predicted for each event of the held-back part before learning it, beside the network's logits there, is what the
blend of the two is fitted on: neither had learned the event.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle, BundleMeta, bundle_id, sha256, write_bundle
from models.calibration import Blend, sigmoid
from models.ftrl import Ftrl, FtrlSettings
from models.metrics import average_precision, calibration_error, log_loss, roc_auc
from models.reasons import typical_row
from models.scorer import TRAINING, bundle_parts
from ops.progress import Progress, Stage, silent
from ops.training.history import as_known, only_between
from ops.training.network_training import NetworkSettings, TrainedNetwork, remembered, served_logits, train_networks
from pipeline.app import Task
from pipeline.dataset import Dataset

Float64s = NDArray[np.float64]
BUNDLE_BYTES_MAX = 12_000_000
TYPICAL_ROWS = 100_000  # a median needs no more
PACKAGES = ("numpy", "numba", "torch", "onnx", "onnxruntime", "onnxruntime-gpu")


class TrainingError(ValueError):
    """The history cannot be learned from as asked; the message says what to change."""


@dataclass(frozen=True)
class TrainingSettings:
    """What can be chosen about a training.

    Attributes:
        start_ms: events before it only fill the windows; None takes all.
        until_ms: the moment of training: nothing that happened, or became known, from then on is used; None takes all.
        epochs: of the network, at most.
        seed: of everything random. Equal settings and data give an equal bundle on one machine.
        held_back: the newest share of the events, which the network does not learn.
        quick: a small network and two epochs, to try an app out.
        resume: go on with a network that was interrupted in the same folder.
        device: for the network: "auto", "cpu" or "cuda".
        threads: of the CPU, for the network.
        command: how the training was started, for the provenance.
        created_ms: when, milliseconds since the epoch, for the provenance.
    """

    start_ms: int | None = None
    until_ms: int | None = None
    epochs: int = 8
    seed: int = 0
    held_back: float = 0.15
    quick: bool = False
    resume: bool = False
    device: str = "auto"
    threads: int = 1
    command: str = ""
    created_ms: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.epochs < 1:
            raise TrainingError(f"epochs is {self.epochs}; give 1 or more")
        if not 0 < self.held_back <= 0.5:
            raise TrainingError(f"held_back is {self.held_back}; give a share above 0 and up to 0.5")
        if self.start_ms is not None and self.until_ms is not None and self.start_ms >= self.until_ms:
            raise TrainingError(f"start ({self.start_ms} ms) is not before until ({self.until_ms} ms); swap them")

    @property
    def network(self) -> NetworkSettings:
        """What of it concerns the network."""
        return NetworkSettings(
            self.epochs, self.seed, self.held_back, self.quick, self.resume, self.device, self.threads
        )  # fmt: skip


@dataclass(frozen=True)
class TrainedBundle:
    """A bundle and how it came about.

    Attributes:
        bundle: as written.
        folder: where; `pelton models promote` and `--bundle` take it.
        events: how many were learned from, `positives` of them positive.
        held_back: how many of them the network did not learn.
        metrics: of the held-back part, as "held_back.MODEL.METRIC" for moe, ftrl and blend.
        seconds: by stage.
        report_path: of the network's training report, None without a network.
    """

    bundle: Bundle
    folder: Path
    events: int
    positives: int
    held_back: int
    metrics: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)
    report_path: Path | None = None


def train_on(
    data: Dataset,
    task: Task,
    settings: TrainingSettings,
    out_dir: Path,
    progress: Progress = silent,
    seconds: dict[str, float] | None = None,
    network: TrainedNetwork | None = None,
) -> TrainedBundle:
    """Train a task's models on its history and write them as a bundle into `out_dir`/TASK-ID.

    Args:
        data: as `ops.training.history.read_history` reads it.
        task: with a label, and a model or a learner.
        settings: which part of history, how long, which seed.
        out_dir: made if missing; the network's checkpoint, report and plots go to `out_dir`/network.
        progress: told often; what it raises ends the training, which `resume` can then take up.
        seconds: by stages that were done already.
        network: trained already, with other tasks; without one it is trained here, for this task alone.

    Raises:
        ValueError: no label, no model, too little history, or a setting that does not fit; in one sentence.
    """
    check_trainable(task)
    seconds = dict(seconds or {})
    known = as_known(only_between(data, settings.start_ms, None), settings.until_ms)
    held = _held_back(known, settings)
    out_dir.mkdir(parents=True, exist_ok=True)
    clock = _Clock(seconds)
    logits = np.full((len(known), 2), np.nan)
    if task.model is not None:
        if network is None:
            network = train_networks({task.name: known}, settings.network, out_dir / "network", progress)[task.name]
            clock.stage("network")
        logits[:, 0] = served_logits(network.path, known, progress)
        clock.stage("scores")
    learner, learner_saw = None, "none"
    if task.learner is not None:
        learner, logits, learner_saw = _train_learner(known, held, logits, progress)
        clock.stage("learner")
    names = tuple(name for name, there in (("moe", network), ("ftrl", learner)) if there is not None)
    judged = logits[held][:, [("moe", "ftrl").index(name) for name in names]]
    blend = Blend.fit(names, judged, known.labels[held])
    typical = typical_row(known.features[:: -(-len(known) // TYPICAL_ROWS)], known.specs)
    onnx = network.path.read_bytes() if network is not None else None
    parts = bundle_parts(known.specs, blend, typical, onnx, learner.snapshot() if learner is not None else None)
    provenance = _provenance(known, settings) | {"learner_saw_logits": learner_saw}
    if network is not None:
        parts[TRAINING] = remembered(network.report_path, task.name)
        provenance["network_tasks"] = ", ".join(network.tasks)
    metrics = _metrics(blend, judged, known.labels[held])
    meta = BundleMeta(
        name=f"{task.name} {'+'.join(names)}", task=task.name, created_ms=settings.created_ms,
        provenance=provenance, metrics=dict(metrics),
    )  # fmt: skip
    bundle, folder = _write(parts, meta, out_dir)
    clock.stage("bundle")
    return TrainedBundle(
        bundle,
        folder,
        len(known),
        int(known.labels.sum()),
        int(held.sum()),
        metrics,
        clock.seconds,
        network.report_path if network is not None else None,
    )


def check_trainable(task: Task) -> None:
    """Refuse a task that has nothing to train.

    Raises:
        TrainingError: no label, or neither model nor learner.
    """
    if task.label is None:
        raise TrainingError(f"task {task.name!r} has no label; give it one to learn from: label=frauds.is_fraud")
    if task.model is None and task.learner is None:
        raise TrainingError(f"task {task.name!r} decides by rules alone; give it model='moe' or learner='ftrl'")


def data_sha256(data: Dataset) -> str:
    """Return the SHA-256 over columns, features, labels and times of what is learned from, 64 hexadecimal digits."""
    digest = hashlib.sha256(repr(data.specs).encode())
    for array in (data.features, data.labels, data.known_ms, data.times_ms):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _held_back(known: Dataset, settings: TrainingSettings) -> NDArray[np.bool_]:
    """Tell which events are held back: the newest, none of one millisecond split; as `models.train.dataset` does."""
    if not len(known):
        raise TrainingError("no event of the history has a label that was known in time; give more, or a later until")
    in_time = np.sort(known.times_ms)
    held = known.times_ms >= in_time[min(len(known) - 1, int(len(known) * (1 - settings.held_back)))]
    for what, part in (("before the held-back part", ~held), ("in the held-back part", held)):
        positives = int(known.labels[part].sum())
        if not 0 < positives < part.sum():
            raise TrainingError(
                f"{positives} of the {int(part.sum())} labels {what} are positive; both kinds are needed, "
                "so give a longer history"
            )
    return held


def _train_learner(
    known: Dataset, held: NDArray[np.bool_], logits: Float64s, progress: Progress
) -> tuple[Ftrl, Float64s, str]:
    """Let the learner live through history; return it, the (events, 2) logits with its own, and what it saw of those.

    The network's logits of events that it was trained on are too sure of themselves. Still the learner may gain more
    from seeing them than it loses, so it is tried both ways, with them and with null instead, and its predictions of
    the held-back part, each made before its label was learned, decide.
    """
    in_order = np.argsort(known.known_ms, kind="stable")
    unseen = np.where(held, logits[:, 0], np.nan)
    tries = {"all": logits[:, 0], "held back": unseen} if np.isfinite(logits[:, 0]).any() else {"none": unseen}
    losses: dict[str, float] = {}
    best: tuple[str, Ftrl, Float64s] | None = None
    for done, (name, moe_logits) in enumerate(tries.items()):
        progress(Stage("learner", done, len(tries)))
        learner = Ftrl.fitted(known.specs, known.features, moe_logits, FtrlSettings(moe=name != "none"))
        predicted = np.empty(len(known))
        predicted[in_order] = learner.learn(known.features[in_order], known.labels[in_order], moe_logits[in_order])
        losses[name] = log_loss(sigmoid(predicted[held]), known.labels[held])
        if best is None or losses[name] < losses[best[0]]:
            best = (name, learner, predicted)
    assert best is not None
    told = ", ".join(f"{name} {loss:.5f}" for name, loss in losses.items())
    progress(Stage("learner", len(tries), len(tries), f"{best[1].learned:,} labels, log loss by logits seen: {told}"))
    return best[1], np.column_stack([logits[:, 0], best[2]]), best[0]


def _metrics(blend: Blend, logits: Float64s, labels: Float64s) -> dict[str, float]:
    """Return figures of the held-back part. The blend has 3 numbers that were fitted there; the rest saw none of it."""
    scores = {name: sigmoid(logits[:, column]) for column, name in enumerate(blend.names)}
    scores["blend"] = blend.probability(logits)
    found: dict[str, float] = {}
    for name, score in scores.items():
        found[f"held_back.{name}.auc"] = round(roc_auc(score, labels), 4)
        found[f"held_back.{name}.average_precision"] = round(average_precision(score, labels), 4)
        found[f"held_back.{name}.calibration_error"] = round(calibration_error(score, labels), 5)
    return found


def _provenance(known: Dataset, settings: TrainingSettings) -> dict[str, str | int | float | None]:
    told: dict[str, str | int | float | None] = {
        "command": settings.command,
        "seed": settings.seed,
        "epochs": settings.epochs,
        "quick": int(settings.quick),
        "held_back": settings.held_back,
        "start_ms": settings.start_ms,
        "until_ms": settings.until_ms,
        "events": len(known),
        "positives": int(known.labels.sum()),
        "first_ms": int(known.times_ms.min()),
        "last_ms": int(known.times_ms.max()),
        "labels_known_until_ms": int(known.known_ms.max()),
        "data_sha256": data_sha256(known),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            told[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return told


def _write(parts: Mapping[str, bytes], meta: BundleMeta, out_dir: Path) -> tuple[Bundle, Path]:
    size = sum(len(part) for part in parts.values())
    if size > BUNDLE_BYTES_MAX:
        raise TrainingError(f"the bundle would have {size:,} bytes, more than {BUNDLE_BYTES_MAX:,}; use fewer features")
    id = bundle_id({name: sha256(part) for name, part in parts.items()})
    folder = out_dir / f"{meta.task}-{id}"
    return write_bundle(folder, parts, meta), folder


class _Clock:
    """How long each stage took."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self._last = seconds, time.perf_counter()

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = round(now - self._last, 2), now
