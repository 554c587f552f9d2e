"""What a task on event features learns: network, learner and their blend, each judged by what is new to it.

The network learns all settled events but the newest. The learner then learns all of them in the order in which their
labels became known. What it predicted for each event of the held-back part before learning it, beside the network's
logits there, is what the blend of the two is fitted on: neither had learned the event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.calibration import Blend, sigmoid
from models.ftrl import Ftrl, FtrlSettings
from models.metrics import average_precision, calibration_error, log_loss, roc_auc
from models.moe.settings import MoESettings
from models.reasons import typical_row
from models.scorer import DISTILLED, DISTILLED_BLEND, MOE, bundle_parts
from ops.progress import Progress, Stage, silent
from ops.training.distilling import NetworkFigures, compared, distil_events
from ops.training.history import as_known, only_between
from ops.training.pruning import PrunedFigures, prune_network
from ops.training.recipes import Recipe
from ops.training.training import (
    Lesson,
    Made,
    TrainedBundle,
    TrainingError,
    TrainingSettings,
    check_trainable,
    newest,
    train_lessons,
)  # fmt: skip
from ops.training.tuning import Choice, Value
from pipeline.app import Task
from pipeline.dataset import Dataset

if TYPE_CHECKING:
    from models.train.events import EventData
    from models.train.joint import Trained

Float64s = NDArray[np.float64]
EPOCHS, EPOCHS_QUICK, PATIENCE = 8, 2, 4
SIZES = MoESettings()
SIZES_QUICK = MoESettings(
    width=32, heads=2, experts=4, expert_width=32, shared_width=32, tokens_max=6, head_width=32, buckets=512
)
INPUT_DROPOUT_MAX = 0.15  # of a search
TYPICAL_ROWS = 100_000  # a median needs no more
ROWS_AT_ONCE = 512
EPOCH_ROWS_MIN = 30_000  # where positives are few, an epoch takes more negatives
STEPS_MIN = 60  # of an epoch; where events are few, batches are smaller
BATCH_MIN, BATCH_MAX = 64, 512
GATE_ROWS = 5_000  # rows of history that the parity gate draws from
_STUDENTS = {"distilled": "distilled", "blend": "distilled_blend"}  # figures of what the student does, beside the rest


class EventLesson(Lesson):
    """The events of a history, as `ops.training.history.read_history` reads it.

    Raises:
        TrainingError: no label, no model, or too little history; in one sentence.
    """

    def __init__(self, history: Dataset, task: Task, settings: TrainingSettings) -> None:
        super().__init__(task, settings)
        check_trainable(task)
        self._known = known = as_known(only_between(history, settings.start_ms, None), settings.until_ms)
        self._learns = task.learner is not None
        self.times_ms, self.positives = known.times_ms, int(known.labels.sum())
        self.held = newest(known.times_ms, settings.held_back)
        for what, part in (("before the held-back part", ~self.held), ("in the held-back part", self.held)):
            positives = int(known.labels[part].sum())
            if not 0 < positives < part.sum():
                raise TrainingError(
                    f"{positives} of the {int(part.sum())} labels {what} are positive; both kinds are needed, "
                    "so give a longer history"
                )
        if task.model is not None:
            self.data = self._events = _event_data(known, settings)
            epochs = settings.epochs_of(EPOCHS, EPOCHS_QUICK)
            self.recipe = Recipe(epochs, SIZES_QUICK if settings.quick else SIZES, PATIENCE)

    def space(self) -> dict[str, Choice]:
        """Return that feature values may be hidden more or less often while training."""
        return {"input_dropout": Choice(SIZES.input_dropout, 0.0, INPUT_DROPOUT_MAX)}

    def tune(self, values: Mapping[str, Value]) -> None:
        """Train with some values from now on."""
        super().tune(values)
        assert self.recipe is not None
        if "input_dropout" in values:
            sizes = replace(self.recipe.sizes, input_dropout=values["input_dropout"])
            self.recipe = replace(self.recipe, sizes=sizes)

    def make(self, trained: Trained | None, folder: Path, progress: Progress) -> Made:
        """Blend network and learner; the network's file stays in `folder`, too."""
        known, held = self._known, self.held
        logits = np.full((len(known), 2), np.nan)
        onnx, learner, learner_saw, student = None, None, "none", None
        pruning: list[PrunedFigures] = []
        if trained is not None:
            from models.export import export

            folder.mkdir(exist_ok=True)
            gate, network, path = known.features[:: -(-len(known) // GATE_ROWS)], trained.network, folder / MOE
            if self.settings.prune:
                exported = partial(export, path=path, rows=gate)
                network, pruning = prune_network(
                    network, self.task.name, self._events, self.settings, lambda its: exported(its).file, progress
                )
                self.clock.stage("prune")
            onnx = self.exported(lambda: export(network, path, gate, task=self.task.name), progress)
            logits[:, 0] = _served_logits(path, known, progress)
            self.clock.stage("scores")
            if self.settings.distill:
                student = distil_events(self._events, logits[:, 0], gate, self.settings, progress)
                self.clock.stage("student")
        if self._learns:
            learner, logits, learner_saw = _train_learner(known, held, logits, progress)
            self.clock.stage("learner")
        names = tuple(name for name, there in (("moe", onnx), ("ftrl", learner)) if there is not None)
        judged = logits[held][:, [("moe", "ftrl").index(name) for name in names]]
        blend = Blend.fit(names, judged, known.labels[held])
        typical = typical_row(known.features[:: -(-len(known) // TYPICAL_ROWS)], known.specs)
        parts = bundle_parts(known.specs, blend, typical, onnx, learner.snapshot() if learner is not None else None)
        metrics = _metrics(blend, judged, known.labels[held])
        networks: list[NetworkFigures] = []
        if student is not None and onnx is not None:
            teacher = logits[:, 0] if learner_saw == "all" else np.full(len(known), np.nan)
            both = self._calibrated(student, teacher, folder / DISTILLED)
            parts |= {DISTILLED: student, DISTILLED_BLEND: both[0].to_json()}
            metrics |= both[1]
            networks = compared({"moe": onnx, "distilled": student}, metrics)
        return Made(parts, names, metrics, {
            "labels_known_until_ms": int(known.known_ms.max()), "data_sha256": data_sha256(known),
            "learner_saw_logits": learner_saw,
        }, networks, pruning)  # fmt: skip

    def _calibrated(self, student: bytes, teacher: Float64s, path: Path) -> tuple[Blend, dict[str, float]]:
        """Fit the blend of student and learner to what is held back, as if the student had answered there.

        `teacher`: (events,) the logits that the learner saw of what was learned.
        """
        known, held = self._known, self.held
        path.write_bytes(student)
        seen = teacher.copy()
        seen[held] = _served_logits(path, known.where(held), silent)
        names, columns = ["distilled"], [seen[held]]
        if self._learns:
            names.append("ftrl")
            columns.append(_lived_through(known, seen, FtrlSettings())[1][held])
        logits = np.column_stack(columns)
        blend = Blend.fit(tuple(names), logits, known.labels[held])
        told = _metrics(blend, logits, known.labels[held])
        changed = {f"held_back.{was}.": f"held_back.{now}." for was, now in _STUDENTS.items()}
        renamed = {now + name.removeprefix(was): value for was, now in changed.items()
                   for name, value in told.items() if name.startswith(was)}  # fmt: skip
        return blend, renamed


def train_on(
    history: Dataset, task: Task, settings: TrainingSettings, out_dir: Path, progress: Progress = silent
) -> TrainedBundle:
    """Train a task's models on its history and write them as a bundle into `out_dir`/TASK-ID.

    Raises:
        ValueError: no label, no model, too little history, or a setting that does not fit; in one sentence.
    """
    return train_lessons([EventLesson(history, task, settings)], out_dir, progress)[task.name]


def data_sha256(data: Dataset) -> str:
    """Return the SHA-256 over columns, features, labels and times of what is learned from, 64 hexadecimal digits."""
    digest = hashlib.sha256(repr(data.specs).encode())
    for array in (data.features, data.labels, data.known_ms, data.times_ms):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _event_data(known: Dataset, settings: TrainingSettings) -> EventData:
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


def _served_logits(path: Path, known: Dataset, progress: Progress) -> Float64s:
    """Return the network's logits of all events, from the runtime that will serve it."""
    from models.moe_runtime import OnnxMoE

    network = OnnxMoE(path, known.specs, buckets=(ROWS_AT_ONCE,))
    logits = np.full(len(known), np.nan)
    for first in range(0, len(known), 16 * ROWS_AT_ONCE):
        rows = slice(first, first + 16 * ROWS_AT_ONCE)
        logits[rows] = network.logits(known.features[rows])
        progress(Stage("scores", min(rows.stop, len(known)), len(known)))
    return logits


def _train_learner(
    known: Dataset, held: NDArray[np.bool_], logits: Float64s, progress: Progress
) -> tuple[Ftrl, Float64s, str]:
    """Let the learner live through history; return it, the (events, 2) logits with its own, and what it saw of those.

    The network's logits of events that it was trained on are too sure of themselves. Still the learner may gain more
    from seeing them than it loses, so it is tried both ways, with them and with null instead, and its predictions of
    the held-back part, each made before its label was learned, decide.
    """
    unseen = np.where(held, logits[:, 0], np.nan)
    tries = {"all": logits[:, 0], "held back": unseen} if np.isfinite(logits[:, 0]).any() else {"none": unseen}
    losses: dict[str, float] = {}
    best: tuple[str, Ftrl, Float64s] | None = None
    for done, (name, moe_logits) in enumerate(tries.items()):
        progress(Stage("learner", done, len(tries)))
        learner, predicted = _lived_through(known, moe_logits, FtrlSettings(moe=name != "none"))
        losses[name] = log_loss(sigmoid(predicted[held]), known.labels[held])
        if best is None or losses[name] < losses[best[0]]:
            best = (name, learner, predicted)
    assert best is not None
    told = ", ".join(f"{name} {loss:.5f}" for name, loss in losses.items())
    progress(Stage("learner", len(tries), len(tries), f"{best[1].learned:,} labels, log loss by logits seen: {told}"))
    return best[1], np.column_stack([logits[:, 0], best[2]]), best[0]


def _lived_through(known: Dataset, logits: Float64s, settings: FtrlSettings) -> tuple[Ftrl, Float64s]:
    """Let a learner live through history with (events,) logits of a network; return its own of before each label."""
    in_order = np.argsort(known.known_ms, kind="stable")
    learner, predicted = Ftrl.fitted(known.specs, known.features, logits, settings), np.empty(len(known))
    predicted[in_order] = learner.learn(known.features[in_order], known.labels[in_order], logits[in_order])
    return learner, predicted


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
