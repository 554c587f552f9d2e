"""How good is a defect task's network on images that it has not seen, and does its heat map point at the defect?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.defect_scorer import DefectScorer
from models.defects import CARD, DefectCard, DefectScores
from models.metrics import roc_auc
from ops.progress import Progress, Stage, silent
from ops.training.contents import Contents
from ops.training.defect_baseline import BASELINE, defects_by_edges
from ops.training.defect_plots import write_defect_plots
from ops.training.defect_training import figures
from ops.training.evaluating import ContentTest
from ops.training.found import (
    REPORT,
    EvaluationError,
    EvaluationSettings,
    FigurePairs,
    Found,
    Table,
    experts_of,
    pairs_json,
    pairs_table,
    speed,
)  # fmt: skip
from pipeline.defects import DefectTask

TIMED_IMAGES = 50
_COLUMNS = ("class", "images", "precision", "recall", "f1")


@dataclass(frozen=True, kw_only=True)
class DefectEvaluation(Found):
    """What an evaluation on images found.

    Attributes:
        figures: what -> ours, and of the baseline; recall and precision are those of alerts at the bundle's threshold.
        classes: per class its name, how many images it has, precision, recall and F1.
        images: how many were judged; `unread` could not be.
        masks: how many images had a mask.
    """

    figures: FigurePairs
    classes: tuple[tuple[str, int, float, float, float], ...]
    images: int
    unread: int
    masks: int

    def summary(self) -> str:
        """Say how many there were."""
        return f"{self.images:,} images judged, {self.masks:,} of them with a mask"

    def tables(self) -> list[Table]:
        """Return a row per figure, and a row per class."""
        rows = [
            [name, f"{count:,}", f"{precision:.3f}", f"{recall:.3f}", f"{f1:.3f}"]
            for name, count, precision, recall, f1 in self.classes
        ]
        return [pairs_table(self.figures, BASELINE), (["class", "images", "precision", "recall", "F1"], rows)]


def evaluate_defects(
    asked: ContentTest, task: DefectTask, out_dir: Path, settings: EvaluationSettings, progress: Progress = silent
) -> DefectEvaluation:
    """Judge a bundle by the images of a test; write report and plots into `out_dir`.

    Raises:
        EvaluationError: the test has labels that the bundle does not know.
    """
    bundle, test = asked.bundle, asked.test
    card = DefectCard.from_json(bundle.part(CARD))
    unknown = sorted({str(label) for label in test.labels["label"]} - set(card.classes))
    if unknown:
        raise EvaluationError(f"the test has labels that the bundle does not know: {', '.join(unknown)}; train again")
    scorer = DefectScorer(bundle, task.image_field.size, task.image_field.channels)
    scores = _scored(scorer, test, progress)
    classes = np.array([card.classes.index(str(label)) for label in test.labels["label"]], np.int64)
    ours, theirs = figures(scores, classes, card), None
    if settings.baseline:
        progress(Stage(BASELINE, 0, 1))
        theirs = defects_by_edges(asked.learned, test, classes, card, task.recall, settings.seed)
        progress(Stage(BASELINE, 1, 1, "" if theirs is not None else "too little to learn from"))
    found: FigurePairs = {name: (value, None if theirs is None else theirs[name]) for name, value in ours.items()}
    drawn = scorer.heat_maps(scores)
    truth = _masks(test, settings.masks, card)
    if truth is not None:
        told = roc_auc(drawn.reshape(-1).astype(np.float64), truth.reshape(-1))
        found["heat_map_auroc"] = (round(told, 4), None)
    found |= speed("image", lambda image: scorer.heat_maps(scorer.score(image[None])), list(test.values[:TIMED_IMAGES]))
    title = f"{task.name}: {len(test):,} images, accuracy {ours['accuracy']:.3f}"
    unread = f"{test.unread:,} images lie where they could not be read; they are left out"
    evaluation = DefectEvaluation(
        figures=found, classes=_by_class(scores, classes, card), images=len(test), unread=test.unread,
        masks=0 if truth is None else int(truth.any(axis=(1, 2)).sum()), bundle=bundle.id,
        notes=asked.notes + ((unread,) if test.unread else ()), report_path=out_dir / REPORT,
        plots=write_defect_plots(out_dir, title, test.values, drawn, truth, scores, classes, card),
        experts=experts_of(bundle, scorer.load),
    )  # fmt: skip
    evaluation.write(task, bundle, {
        "images": len(test), "unread": test.unread, "masks": evaluation.masks, "recall_wanted": task.recall,
        "card": card, "figures": pairs_json(found, BASELINE),
        "classes": [dict(zip(_COLUMNS, row, strict=True)) for row in evaluation.classes],
    })  # fmt: skip
    return evaluation


def _scored(scorer: DefectScorer, test: Contents, progress: Progress) -> DefectScores:
    parts = []
    for first in range(0, len(test), 64):
        parts.append(scorer.score(test.values[first : first + 64]))
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


def _masks(test: Contents, folder: Path | None, card: DefectCard) -> NDArray[np.bool_] | None:
    """Return (n, s, s) where the defects are; sound images have none.

    Raises:
        EvaluationError: the mask of an image with a defect is missing or unreadable.
    """
    from connectors.images import ImageError, decode_image

    if folder is None:
        return None
    found = np.zeros((len(test), card.size, card.size), np.bool_)
    for row, (event, label) in enumerate(zip(test.ids, test.labels["label"], strict=True)):
        if label != card.sound:
            try:
                found[row] = decode_image((folder / f"{event}.png").read_bytes(), card.size, 1)[:, :, 0] >= 128
            except (OSError, ImageError) as problem:
                raise EvaluationError(f"the mask of {event} cannot be read from {folder}: {problem}") from None
    return found
