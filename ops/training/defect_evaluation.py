"""How good is a defect task's network on images that it has not seen, and does its heat map point at the defect?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from connectors.files import FileInput
from connectors.secrets import Tokeniser
from models.bundle import Bundle
from models.defect_scorer import DefectScorer
from models.defects import CARD, DefectCard, DefectScores
from models.metrics import roc_auc
from ops.progress import Progress, Stage, silent
from ops.training.defect_history import Photos, read_photos
from ops.training.defect_plots import write_defect_plots
from ops.training.defect_training import check_trainable_defects, figures, train_on_photos
from ops.training.evaluating import TEST_SHARE, Days
from ops.training.evaluation import REPORT, EvaluationError
from ops.training.training import TrainingSettings
from pipeline.app import App
from pipeline.defects import DefectTask

TIMED_IMAGES = 50
_COLUMNS = ("class", "images", "precision", "recall", "f1")


@dataclass(frozen=True)
class DefectEvaluation:
    """What an evaluation found.

    Attributes:
        figures: name -> value; recall and precision are those of alerts at the bundle's threshold.
        classes: per class its name, how many images it has, precision, recall and F1.
        images: how many were judged; `unread` could not be.
        bundle: id of the bundle that was judged.
        masks: how many images had a mask.
        report_path: a JSON file with all of it.
        plots: name -> PNG file.
    """

    figures: dict[str, float]
    classes: tuple[tuple[str, int, float, float, float], ...]
    images: int
    unread: int
    bundle: str
    masks: int
    report_path: Path
    plots: dict[str, Path]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return a header and a row of texts per class."""
        rows = [
            [name, f"{count:,}", f"{precision:.3f}", f"{recall:.3f}", f"{f1:.3f}"]
            for name, count, precision, recall, f1 in self.classes
        ]
        return ["class", "images", "precision", "recall", "F1"], rows


def evaluate_defects(
    app: App,
    task: DefectTask,
    inputs: Mapping[str, FileInput],
    days: Days,
    out_dir: Path,
    bundle: Bundle | None,
    training: TrainingSettings,
    masks: Path | None = None,
    progress: Progress = silent,
    tokeniser: Tokeniser | None = None,
) -> DefectEvaluation:
    """Judge a bundle, or one trained as of the test's begin, by the images of the test; write report and plots.

    Args:
        app: holds the task.
        task: with a label.
        inputs: stream name -> its files.
        days: of training and test; the test is the last 30 % of the time, if not given.
        out_dir: made if missing.
        bundle: to judge; None trains one.
        training: how to train it.
        masks: folder with ID.png for images with a defect, white where it is; sound images need none.
        progress: told often.
        tokeniser: for sensitive fields.

    Raises:
        ValueError: there is nothing to judge, or nothing can be trained; one sentence.
    """
    check_trainable_defects(task)
    photos = read_photos(app, task, inputs, tokeniser, progress)
    if not len(photos):
        raise EvaluationError(f"task {task.name!r} has no image to judge")
    start_ms = days.test_start_ms
    if start_ms is None:
        first, last = int(photos.times_ms.min()), int(photos.times_ms.max())
        start_ms = first + int((last - first) * (1 - TEST_SHARE))
    if bundle is None:
        until_ms = min(start_ms, days.train_end_ms) if days.train_end_ms is not None else start_ms
        wanted = replace(training, start_ms=days.train_start_ms, until_ms=until_ms)
        bundle = train_on_photos(photos, task, wanted, out_dir, progress).bundle
    out_dir.mkdir(parents=True, exist_ok=True)
    card = DefectCard.from_json(bundle.part(CARD))
    test = photos.known(start_ms, None)
    if days.test_end_ms is not None:
        test = test.where(test.times_ms < days.test_end_ms)
    unknown = sorted({str(label) for label in test.labels} - set(card.classes))
    if unknown or not len(test):
        what = f"labels that the bundle does not know: {', '.join(unknown)}" if unknown else "no labelled image"
        raise EvaluationError(f"the test has {what}; choose other days, or train again")
    scorer = DefectScorer(bundle, task.image_field.size, task.image_field.channels)
    scores = _scored(scorer, test, progress)
    classes = np.array([card.classes.index(str(label)) for label in test.labels], np.int64)
    found = dict(figures(scores.score, scores.classes, classes, card))
    drawn = scorer.heat_maps(scores)
    truth = _masks(test, masks, card)
    if truth is not None:
        found["heat_map_auroc"] = round(roc_auc(drawn.reshape(-1).astype(np.float64), truth.reshape(-1)), 4)
    found |= _speed(scorer, test)
    title = f"{task.name}: {len(test):,} images, accuracy {found['accuracy']:.3f}"
    plots = write_defect_plots(out_dir, title, test.pixels, drawn, truth, scores, classes, card)
    evaluation = DefectEvaluation(
        found, _by_class(scores, classes, card), len(test), photos.unread, bundle.id,
        0 if truth is None else int(truth.any(axis=(1, 2)).sum()), out_dir / REPORT, plots,
    )  # fmt: skip
    _write_report(evaluation, task, card, bundle)
    return evaluation


def _scored(scorer: DefectScorer, test: Photos, progress: Progress) -> DefectScores:
    parts = []
    for first in range(0, len(test), 64):
        parts.append(scorer.score(test.pixels[first : first + 64]))
        progress(Stage("scores", min(first + 64, len(test)), len(test)))
    names = ("score", "classes", "best", "evidence")
    return DefectScores(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _by_class(
    scores: DefectScores, classes: NDArray[np.int64], card: DefectCard
) -> tuple[tuple[str, int, float, float, float], ...]:
    said = scores.classes.argmax(1)
    rows = []
    for place, name in enumerate(card.classes):
        hit, there, told = (
            int(each.sum()) for each in ((said == place) & (classes == place), classes == place, said == place)
        )
        rows.append((name, there, hit / max(told, 1), hit / max(there, 1), 2 * hit / max(there + told, 1)))
    return tuple(rows)


def _masks(test: Photos, folder: Path | None, card: DefectCard) -> NDArray[np.bool_] | None:
    """Return (n, s, s) where the defects are; sound images have none.

    Raises:
        EvaluationError: the mask of an image with a defect is missing or unreadable.
    """
    from connectors.images import ImageError, decode_image

    if folder is None:
        return None
    found = np.zeros((len(test), card.size, card.size), np.bool_)
    for row, (event, label) in enumerate(zip(test.ids, test.labels, strict=True)):
        if label != card.sound:
            try:
                found[row] = decode_image((folder / f"{event}.png").read_bytes(), card.size, 1)[:, :, 0] >= 128
            except (OSError, ImageError) as problem:
                raise EvaluationError(f"the mask of {event} cannot be read from {folder}: {problem}") from None
    return found


def _speed(scorer: DefectScorer, test: Photos) -> dict[str, float]:
    """Time one image after the other on one thread, heat map included."""
    took = []
    for row in range(min(TIMED_IMAGES, len(test))):
        started = time.perf_counter()
        scorer.heat_maps(scorer.score(test.pixels[row : row + 1]))
        took.append(1e3 * (time.perf_counter() - started))
    return {"image_ms_p50": round(float(np.median(took)), 2), "image_ms_p95": round(float(np.quantile(took, 0.95)), 2)}


def _write_report(evaluation: DefectEvaluation, task: DefectTask, card: DefectCard, bundle: Bundle) -> None:
    told = {
        "task": task.name, "bundle": bundle.id, "provenance": bundle.meta.provenance, "images": evaluation.images,
        "unread": evaluation.unread, "masks": evaluation.masks, "recall_wanted": task.recall, "card": card,
        "figures": evaluation.figures,
        "classes": [dict(zip(_COLUMNS, row, strict=True)) for row in evaluation.classes],
        "plots": {name: path.name for name, path in evaluation.plots.items()},
    }  # fmt: skip
    evaluation.report_path.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")
