"""From images to a bundle: the network learns all but the newest, which choose temperature, threshold and scale."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from connectors.files import FileInput
from connectors.secrets import Tokeniser
from models.bundle import BundleMeta
from models.defect_card import fit_card
from models.defect_scorer import defect_parts
from models.defects import DefectCard, DefectModel, read_scores
from models.metrics import at_threshold, roc_auc
from ops.progress import Progress, Stage, silent
from ops.training.defect_history import Photos, read_photos
from ops.training.training import PACKAGES, TrainedBundle, TrainingError, TrainingSettings, _write
from pipeline.app import App
from pipeline.defects import DefectTask

CLASS_IMAGES_MIN = 5  # of a class, to learn it
HELD_TO_SORT = 0.05  # held back where there is no threshold to choose, only a temperature
EPOCHS_QUICK = 12
GATE_IMAGES = 64
BATCH = 32
AVERAGED_PARTS = 50  # weights are averaged over a 50th of the steps: normalisation fits no average of weights that move


def train_defects(
    app: App,
    task: DefectTask,
    inputs: Mapping[str, FileInput],
    settings: TrainingSettings,
    out_dir: Path,
    progress: Progress = silent,
    tokeniser: Tokeniser | None = None,
) -> TrainedBundle:
    """Replay history, train the task's network on it and write a bundle into `out_dir`; see `ops.training.training`.

    Raises:
        ValueError: no label, too few images, or a setting that does not fit; in one sentence.
    """
    check_trainable_defects(task)
    photos = read_photos(app, task, inputs, tokeniser, progress)
    return train_on_photos(photos, task, settings, out_dir, progress)


def check_trainable_defects(task: DefectTask) -> None:
    """Refuse a task without labels.

    Raises:
        TrainingError: it has none.
    """
    if task.label is None:
        raise TrainingError(f"task {task.name!r} has no label; give it one to learn from: label=inspections.defect")


def train_on_photos(
    photos: Photos, task: DefectTask, settings: TrainingSettings, out_dir: Path, progress: Progress = silent
) -> TrainedBundle:
    """Train on photographs that were read already; the rest as in `train_defects`."""
    started = time.perf_counter()
    known = photos.known(settings.start_ms, settings.until_ms)
    names, classes = _classes(known, task)
    held = _held_back(known, settings.held_back if task.sound is not None else min(HELD_TO_SORT, settings.held_back))
    network, seconds = _fit(known, classes, held, len(names), task, settings, out_dir, progress)
    field = task.image_field
    blank = DefectCard(names, task.sound, field.size, field.channels, 1.0, 0.0, 0.0, 1.0)
    scores = DefectModel(network, blank)
    logits, evidence = scores.outputs(known.pixels[held])
    try:
        card = fit_card(blank, logits, evidence, classes[held], task.recall)
    except ValueError as problem:
        raise TrainingError(str(problem)) from None
    judged = read_scores(logits, evidence, card)
    metrics = {f"held_back.{name}": value for name, value in figures(judged.score, judged.classes, classes[held], card)}
    provenance: dict[str, str | int | float | None] = {
        "command": settings.command, "seed": settings.seed, "epochs": settings.epochs, "quick": int(settings.quick),
        "held_back": float(held.mean()), "start_ms": settings.start_ms, "until_ms": settings.until_ms,
        "events": len(known), "positives": int(_defective(classes, card).sum()), "python": platform.python_version(),
        "first_ms": int(known.times_ms.min()), "last_ms": int(known.times_ms.max()), "recall": task.recall,
    }  # fmt: skip
    provenance |= {name: version for name in (*PACKAGES, "pillow") if (version := _version(name))}
    meta = BundleMeta(
        name=f"{task.name} moe", task=task.name, created_ms=settings.created_ms, provenance=provenance,
        metrics=dict(metrics),
    )  # fmt: skip
    bundle, folder = _write(defect_parts(network, card), meta, out_dir)
    return TrainedBundle(
        bundle, folder, len(known), int(_defective(classes, card).sum()), int(held.sum()), metrics,
        {"network": seconds, "all": round(time.perf_counter() - started, 1)},
    )  # fmt: skip


def figures(
    score: NDArray[np.float64], probability: NDArray[np.float64], classes: NDArray[np.int64], card: DefectCard
) -> list[tuple[str, float]]:
    """Return what can be said of scored images: accuracy and macro-F1 of the class, precision and recall of alerts."""
    said = probability.argmax(1)
    found = [("accuracy", float((said == classes).mean())), ("macro_f1", macro_f1(said, classes, len(card.classes)))]
    if card.sound is not None:
        defective = _defective(classes, card)
        alerts = at_threshold(score, defective, card.threshold)
        found += [("auc", roc_auc(score, defective)), ("recall", alerts.recall), ("precision", alerts.precision)]
    return [(name, round(value, 4)) for name, value in found]


def macro_f1(said: NDArray[np.int64], classes: NDArray[np.int64], count: int) -> float:
    """Return the mean over classes of 2 tp / (2 tp + fp + fn); a class that is neither there nor said is left out.

    >>> macro_f1(np.array([0, 1, 1]), np.array([0, 1, 0]), 2)
    0.6666666666666666
    """
    both = [((said == k) & (classes == k)).sum() for k in range(count)]
    either = [(said == k).sum() + (classes == k).sum() for k in range(count)]
    return float(np.mean([2 * hit / all_ for hit, all_ in zip(both, either, strict=True) if all_]))


def _defective(classes: NDArray[np.int64], card: DefectCard) -> NDArray[np.bool_]:
    return classes != (card.classes.index(card.sound) if card.sound is not None else -1)


def _classes(known: Photos, task: DefectTask) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the names of the classes, the sound one first, and the class of each image."""
    counts: dict[str, int] = {}
    for label in known.labels:
        assert label is not None
        counts[label] = counts.get(label, 0) + 1
    names = tuple(sorted(counts, key=lambda name: (name != task.sound, name)))
    few = [name for name in names if counts[name] < CLASS_IMAGES_MIN]
    if len(names) < 2 or few:
        what = f"only {counts[few[0]]} of {few[0]!r}" if few else f"{len(names)} classes"
        raise TrainingError(
            f"task {task.name!r} has {len(known)} labelled images, {what}; at least two classes are needed, with "
            f"{CLASS_IMAGES_MIN} images each"
        )
    if task.sound is not None and task.sound not in names:
        raise TrainingError(
            f"no label is {task.sound!r}, which stands for sound surfaces; give such images, or declare sound=None"
        )
    place = {name: number for number, name in enumerate(names)}
    return names, np.array([place[label] for label in known.labels if label is not None], np.int64)


def _held_back(known: Photos, share: float) -> NDArray[np.bool_]:
    """Tell which images are held back: the newest, none of one millisecond split."""
    in_time = np.sort(known.times_ms)
    return known.times_ms >= in_time[min(len(known) - 1, int(len(known) * (1 - share)))]


def _fit(
    known: Photos,
    classes: NDArray[np.int64],
    held: NDArray[np.bool_],
    count: int,
    task: DefectTask,
    settings: TrainingSettings,
    out_dir: Path,
    progress: Progress,
) -> tuple[bytes, float]:
    from models.export_images import export_images
    from models.moe.image import ImageSizes
    from models.moe.settings import MoESettings
    from models.train.images import ImageChoices, ImageData
    from models.train.joint import Progress as Step
    from models.train.joint import fit
    from models.train.settings import TrainSettings

    epochs = min(EPOCHS_QUICK, settings.epochs) if settings.quick else settings.epochs
    small = {"width": 32, "heads": 2, "experts": 4, "expert_width": 32, "shared_width": 32}
    sizes = MoESettings(**(small if settings.quick else {}), dropout=0.1)
    choices = ImageChoices(
        batch=max(1, min(BATCH, int((~held).sum()))),
        quarter_turns=task.quarter_turns,
        mixup=0.0 if task.sound is not None else 0.2,  # half a small defect is none that anybody would see
    )
    data = ImageData(known.pixels, classes, count, held, choices, ImageSizes(8, 16) if settings.quick else ImageSizes())

    def tell(step: Step) -> None:
        told = "".join(f", {name} {value:.3f}" for name, value in step.figures.items())
        progress(
            Stage("network", step.step, step.steps, f"epoch {step.epoch} of {step.epochs}, loss {step.loss:.3f}{told}")
        )

    trained = fit(
        {task.name: data},
        TrainSettings(
            epochs=epochs, patience=epochs, seed=settings.seed, device=settings.device, threads=settings.threads,
            average_decay=max(0.0, 1 - AVERAGED_PARTS / (epochs * data.steps_per_epoch)),
        ),
        out_dir / "network", tell, sizes=sizes, resume=settings.resume,
    )  # fmt: skip
    progress(Stage("export", 0, 1))
    exported = export_images(trained.network, known.pixels[:: -(-len(known) // GATE_IMAGES)])
    progress(Stage("export", 1, 1, exported.in_words()))
    return exported.file, float(trained.report.get("seconds", 0.0))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
