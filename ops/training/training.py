"""From history to bundles: what all kinds of tasks have in common, and the training of one or several together.

Time decides who learns what: the network learns all but the newest part of what is known, the *held-back* part, which
only chooses its best epoch, thresholds and calibration. A `Lesson` is what one task brings: data for the network, and
how its bundle is made of what was trained. `ops.training.recipes` says how long and how large.
"""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle, BundleMeta, bundle_id, sha256, write_bundle
from models.scorer import TRAINING
from models.sentences.card import CARD, MODEL, TOKENIZER
from models.text.scorer import LINEAR, PASSAGES
from ops.progress import Progress, Stage, silent
from ops.training.clock import Clock
from ops.training.distilling import NETWORKS, NetworkFigures, report_networks
from ops.training.pruning import PRUNING, PrunedFigures, report_pruning
from ops.training.recipes import Recipe, repeated, together
from ops.training.tuning import Choice, Value, with_common
from pipeline.app import AnyTask, Task
from pipeline.support import SupportTask

if TYPE_CHECKING:
    from models.onnx_export import Exported
    from models.train.joint import Progress as NetworkProgress
    from models.train.joint import Trained
    from models.train.processes import Processes
    from models.train.task_data import TaskData
    from ops.training.searching import SearchFound

BUNDLE_BYTES_MAX = 12_000_000
BROUGHT = (CARD, MODEL, TOKENIZER, PASSAGES, LINEAR)  # with a sentence encoder: as large as users like them
NETWORK_FOLDER = "network"  # in the output folder: checkpoint, report and plots of the network
PACKAGES = ("numpy", "numba", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "pillow", "tokenizers")


class TrainingError(ValueError):
    """The history cannot be learned from as asked; the message says what to change."""


@dataclass(frozen=True)
class TrainingSettings:
    """What can be chosen about a training.

    Attributes:
        start_ms: events before it only fill the windows; None takes all.
        until_ms: the moment of training: nothing that happened, or became known, from then on is used; None takes all.
        epochs: of the network, at most; None takes what each kind of task needs.
        seed: of everything random. Equal settings and data give an equal bundle on one machine.
        held_back: the newest share of the events, which the network does not learn.
        quick: a small network and few epochs, to try an app out.
        encoder: a folder or an installed package with a sentence encoder, which tasks on texts read with, too.
        resume: go on with a network that was interrupted in the same folder.
        device: for the network: "auto", "cpu" or "cuda".
        threads: of the CPU, for the network, in each process.
        trials: of a search for better settings before the training, see `ops.training.searching`; 0 is no search.
        processes: that share the network's steps; this one leads them, see `ops.training.launching`.
        distill: whether a small network learns from each large one, to answer where there is no time for that.
        prune: whether networks on event features are pruned as far as their held-back figure allows.
        prune_tolerance: what that may lose; None takes 0.002 of an AUC.
        command: how the training was started, for the provenance.
        created_ms: when, milliseconds since the epoch, for the provenance.
    """

    start_ms: int | None = None
    until_ms: int | None = None
    epochs: int | None = None
    seed: int = 0
    held_back: float = 0.15
    quick: bool = False
    encoder: str | None = None
    resume: bool = False
    device: str = "auto"
    threads: int = 1
    trials: int = 0
    processes: Processes | None = None
    distill: bool = False
    prune: bool = False
    prune_tolerance: float | None = None
    command: str = ""
    created_ms: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.epochs is not None and self.epochs < 1:
            raise TrainingError(f"epochs is {self.epochs}; give 1 or more")
        if self.prune_tolerance is not None and not 0 <= self.prune_tolerance < 1:
            raise TrainingError(f"the tolerance is {self.prune_tolerance}; give what may be lost, such as 0.002")
        if not 0 < self.held_back <= 0.5:
            raise TrainingError(f"held_back is {self.held_back}; give a share above 0 and up to 0.5")
        if self.trials < 0:
            raise TrainingError(f"trials is {self.trials}; give 1 or more, or none at all")
        if self.start_ms is not None and self.until_ms is not None and self.start_ms >= self.until_ms:
            raise TrainingError(f"start ({self.start_ms} ms) is not before until ({self.until_ms} ms); swap them")

    def epochs_of(self, usual: int, quick: int) -> int:
        """Return how many epochs a kind of task gets that usually needs `usual`."""
        wanted = self.epochs or usual
        return min(quick, wanted) if self.quick else wanted


@dataclass(frozen=True)
class TrainedBundle:
    """A bundle and how it came about.

    Attributes:
        bundle: as written.
        folder: where; `pelton models promote` and `--bundle` take it.
        events: how many were learned from, `positives` of them positive; None where no label is.
        held_back: how many of them the network did not learn.
        metrics: of the held-back part, as "held_back.FIGURE" or "held_back.MODEL.FIGURE".
        seconds: by stage.
        report_path: of the network's training report, None without a network.
        search: which settings were searched for, None without a search.
        networks: how large, good and fast the networks of the bundle are, where there are several.
        pruning: the cycles of its pruning, if there was one.
    """

    bundle: Bundle
    folder: Path
    events: int
    positives: int | None
    held_back: int
    metrics: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)
    report_path: Path | None = None
    search: SearchFound | None = None
    networks: Sequence[NetworkFigures] = ()
    pruning: Sequence[PrunedFigures] = ()


@dataclass(frozen=True)
class Made:
    """What a lesson makes of a trained network.

    Attributes:
        parts: of the bundle.
        models: in the bundle, for its name.
        metrics: see `TrainedBundle`.
        provenance: beside what is told of every training.
        networks: of the bundle, where there are several.
        pruning: the cycles of its pruning.
    """

    parts: dict[str, bytes]
    models: Sequence[str]
    metrics: dict[str, float]
    provenance: dict[str, str | int | float | None] = field(default_factory=dict)
    networks: Sequence[NetworkFigures] = ()
    pruning: Sequence[PrunedFigures] = ()


class Lesson(ABC):
    """What a task brings to a training; the history is read and checked when it is made.

    Attributes:
        task: to train.
        settings: of the training.
        recipe: how its network is trained best; None without one.
        data: what the network learns; None without one.
        times_ms: of what is learned from.
        positives: how many of these are; None where no label is.
        held: (events,) which of them are held back.
        clock: how long stages took.
    """

    def __init__(self, task: AnyTask, settings: TrainingSettings) -> None:
        self.task, self.settings = task, settings
        self.recipe: Recipe | None = None
        self.data: TaskData | None = None
        self.times_ms: NDArray[np.int64] = np.zeros(0, np.int64)
        self.positives: int | None = None
        self.held: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.clock = Clock()

    def exported(self, export: Callable[[], Exported], progress: Progress) -> bytes:
        """Export the task's part of the network, and tell of it; return the file."""
        progress(Stage("export", 0, 1))
        made = export()
        progress(Stage("export", 1, 1, made.in_words()))
        self.clock.stage("export")
        return made.file

    def space(self) -> dict[str, Choice]:
        """Return what a search may try of this task alone, beside what any network has."""
        return {}

    def tune(self, values: Mapping[str, Value]) -> None:
        """Train with some values of `space` and of what any network has from now on."""
        assert self.recipe is not None
        self.recipe = with_common(self.recipe, values)

    @abstractmethod
    def make(self, trained: Trained | None, folder: Path, progress: Progress) -> Made:
        """Cut the task out of the trained network, calibrate it on what is held back, and return the bundle's parts.

        `folder` is for files of the network.
        """


def train_lessons(lessons: Sequence[Lesson], out_dir: Path, progress: Progress = silent) -> dict[str, TrainedBundle]:
    """Train the networks of all lessons together, and write a bundle for each.

    Args:
        lessons: with equal settings.
        out_dir: made if missing; bundles go to `out_dir`/TASK-ID, what the network leaves to `out_dir`/network.
        progress: told often, if there are several lessons each one's stages under its name; what it raises ends the
            training, which `resume` can then take up.

    Raises:
        ValueError: too little was held back to calibrate, or the network's loss is not finite; in one sentence.
    """
    if lessons[0].settings.encoder is not None and not any(isinstance(each.task, SupportTask) for each in lessons):
        names = ", ".join(each.task.name for each in lessons)
        raise TrainingError(f"no task to train reads texts ({names}), so a sentence encoder is of no use; leave it out")
    out_dir.mkdir(parents=True, exist_ok=True)
    folder, trained, clock, search = out_dir / NETWORK_FOLDER, None, Clock(), None
    learning = [each for each in lessons if each.data is not None]
    if lessons[0].settings.trials and not learning:
        raise TrainingError("a search needs a network, and none is trained here; leave --search away")
    if learning:
        resume = learning[0].settings.resume
        if learning[0].settings.trials:
            from ops.training.searching import search_settings

            search = search_settings(learning, out_dir, folder, progress)
            clock.stage("search")
            resume = True  # the best trial's checkpoint is where the network begins
        tell = told_steps(learning, lambda done, of, note: progress(Stage("network", done, of, note)))
        trained = fit_lessons(learning, folder, tell, resume)
        progress(Stage("network", 1, 1, f"epoch {trained.report['best_epoch']} is the best"))
        clock.stage("network")
    found = {}
    for lesson in lessons:
        own = lesson if lesson in learning else None
        lesson.clock.seconds |= clock.seconds if own is not None else {}
        lesson.clock.start()
        its_folder = folder if len(learning) == 1 else folder / lesson.task.name
        told = named(progress, lesson.task, lessons)
        made = lesson.make(trained if own is not None else None, its_folder, told)
        found[lesson.task.name] = _bundled(lesson, made, trained, search if own is not None else None, out_dir)
    return found


def fit_lessons(
    lessons: Sequence[Lesson], folder: Path, tell: Callable[[NetworkProgress], None], resume: bool
) -> Trained:
    """Train one network for lessons by their recipes; leave what `models.train.joint.fit` does in `folder`.

    Raises:
        ValueError: the network's loss is not finite, or a checkpoint is of another run.
    """
    from models.train.joint import fit
    from models.train.settings import TrainSettings

    settings = lessons[0].settings
    recipe, passes = together({each.task.name: each.recipe for each in lessons if each.recipe is not None})
    tasks = {
        each.task.name: repeated(each.data, passes[each.task.name]) for each in lessons if each.data is not None
    }  # fmt: skip
    wanted = TrainSettings(
        epochs=recipe.epochs, patience=recipe.patience, learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay, average_decay=recipe.average_decay, seed=settings.seed,
        device=settings.device, threads=settings.threads,
    )  # fmt: skip
    return fit(
        tasks, wanted, folder, tell, sizes=recipe.sizes, allowed=recipe.share_out(list(tasks)), resume=resume,
        processes=settings.processes,
    )  # fmt: skip


def told_steps(
    lessons: Sequence[Lesson], tell: Callable[[float, float, str], None]
) -> Callable[[NetworkProgress], None]:
    """Return what tells of a network's steps: how many of how many, and loss and figures in words."""
    names = {each.task.name: each.data.figure.replace("_", " ") for each in lessons if each.data is not None}

    def told(step: NetworkProgress) -> None:
        note = f"epoch {step.epoch} of {step.epochs}, loss {step.loss:.4f}"
        for task, figure in step.figures.items():
            note += f", {names[task]} {figure:.3f}" if len(names) == 1 else f", {task} {names[task]} {figure:.3f}"
        tell(step.step, step.steps, note)

    return told


def _bundled(
    lesson: Lesson, made: Made, trained: Trained | None, search: SearchFound | None, out_dir: Path
) -> TrainedBundle:
    task, settings, times_ms, parts = lesson.task, lesson.settings, lesson.times_ms, dict(made.parts)
    told: dict[str, str | int | float | None] = {
        "command": settings.command, "seed": settings.seed, "quick": int(settings.quick),
        "start_ms": settings.start_ms, "until_ms": settings.until_ms,
        "epochs": lesson.recipe.epochs if lesson.recipe is not None else 0, "python": platform.python_version(),
    }  # fmt: skip
    if times_ms.size:
        told |= {"events": times_ms.size, "first_ms": int(times_ms.min()), "last_ms": int(times_ms.max()),
                 "held_back": float(lesson.held.mean())}  # fmt: skip
    if lesson.positives is not None:
        told["positives"] = lesson.positives
    report_path = None
    trained = trained if lesson.data is not None else None
    if search is not None:
        told |= search.provenance()
    if trained is not None:
        report_path = trained.out_dir / "training_report.json"
        report_networks(report_path, task.name, made.networks)
        report_pruning(report_path, task.name, made.pruning)
        parts[TRAINING] = remembered(report_path, task.name)
        told["network_tasks"] = ", ".join(trained.network.tasks)
        told["processes"] = trained.report["processes"]
    for package in PACKAGES:
        try:
            told[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    name = f"{task.name} {'+'.join(made.models)}"
    meta = BundleMeta(name, task.name, settings.created_ms, told | made.provenance, dict(made.metrics))
    bundle, folder = _write(parts, meta, out_dir)
    lesson.clock.stage("bundle")
    return TrainedBundle(
        bundle, folder, times_ms.size, lesson.positives, int(lesson.held.sum()), made.metrics, lesson.clock.seconds,
        report_path, search, made.networks, made.pruning,
    )  # fmt: skip


def _write(parts: Mapping[str, bytes], meta: BundleMeta, out_dir: Path) -> tuple[Bundle, Path]:
    size = sum(len(part) for name, part in parts.items() if name not in BROUGHT)  # what is ours; each file has a bound
    if size > BUNDLE_BYTES_MAX:
        raise TrainingError(f"the bundle would have {size:,} bytes, more than {BUNDLE_BYTES_MAX:,}; use fewer features")
    id = bundle_id({name: sha256(part) for name, part in parts.items()})
    folder = out_dir / f"{meta.task}-{id}"
    return write_bundle(folder, parts, meta), folder


def remembered(report_path: Path, task: str) -> bytes:
    """Return what a bundle keeps of a training report: what is equal in equal trainings, and in no other part."""
    report = msgspec.json.decode(report_path.read_bytes())
    its = report.pop("tasks")
    told: dict[str, Any] = {name: value for name, value in its[task].items() if name != "columns"}
    told |= {name: value for name, value in report.items() if name not in ("seconds", NETWORKS, PRUNING)}  # times
    best = report["epochs"][report["best_epoch"] - 1]["tasks"][task]
    told |= {"tasks": list(its), "loads": best["loads"], "validation": best["validation"]}
    return msgspec.json.encode(told)


def check_trainable(task: AnyTask) -> None:
    """Refuse a task that has nothing to train.

    Raises:
        TrainingError: no label, or neither model nor learner.
    """
    if task.label is None and not isinstance(task, SupportTask):
        example = "frauds.is_fraud" if isinstance(task, Task) else "inspections.defect"
        raise TrainingError(f"task {task.name!r} has no label; give it one to learn from: label={example}")
    if isinstance(task, Task) and task.model is None and task.learner is None:
        raise TrainingError(f"task {task.name!r} decides by rules alone; give it model='moe' or learner='ftrl'")


def newest(times_ms: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Tell which (events,) are held back: the newest, none of one millisecond split; as `models.train.dataset` does.

    Raises:
        TrainingError: there is no event.
    """
    if not times_ms.size:
        raise TrainingError("no event of the history has a label that was known in time; give more, or a later until")
    in_time = np.sort(times_ms)
    held: NDArray[np.bool_] = times_ms >= in_time[min(times_ms.size - 1, int(times_ms.size * (1 - share)))]
    return held


def named(progress: Progress, task: AnyTask, several: Sequence[object]) -> Progress:
    """Put a task's name before its stages, if there are several."""
    if len(several) == 1:
        return progress

    def tell(stage: Stage) -> None:
        progress(Stage(f"{task.name} {stage.name}", stage.done, stage.total, stage.note))

    return tell
