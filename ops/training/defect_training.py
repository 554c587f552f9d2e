"""What a task on images learns: all but the newest, which choose temperature, threshold and the scale of heat maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.defect_card import fit_card
from models.defect_scorer import defect_parts
from models.defects import DefectCard, DefectModel, DefectScores, read_scores
from models.metrics import at_threshold, macro_f1, roc_auc
from models.moe.settings import MoESettings
from ops.progress import Progress
from ops.training.contents import Contents
from ops.training.recipes import Recipe
from ops.training.training import Lesson, Made, TrainingError, TrainingSettings, newest
from ops.training.tuning import Choice, Value
from pipeline.defects import DefectTask

if TYPE_CHECKING:
    from models.train.images import ImageData
    from models.train.joint import Trained

CLASS_IMAGES_MIN = 5  # of a class, to learn it
HELD_TO_SORT = 0.05  # held back where there is no threshold to choose, only a temperature
EPOCHS, EPOCHS_QUICK = 60, 12
SIZES = MoESettings(dropout=0.1)
SIZES_QUICK = MoESettings(width=32, heads=2, experts=4, expert_width=32, shared_width=32, dropout=0.1)
GATE_IMAGES = 64
BATCH = 32
SMOOTHING_MAX, EVIDENCE_WEIGHT = 0.2, (0.1, 1.5)  # of a search
AVERAGED_PARTS = 50  # weights are averaged over a 50th of the steps: normalisation fits no average of weights that move


class ImageLesson(Lesson):
    """The images of a history.

    Raises:
        TrainingError: too few images, or classes that do not fit the task; in one sentence.
    """

    def __init__(self, photos: Contents, task: DefectTask, settings: TrainingSettings) -> None:
        super().__init__(task, settings)
        self._known = known = photos.known(settings.start_ms, settings.until_ms)
        names, self._classes = _classes(known, task)
        self._recall, field = task.recall, task.image_field
        self._blank = DefectCard(names, task.sound, field.size, field.channels, 1.0, 0.0, 0.0, 1.0)
        share = settings.held_back if task.sound is not None else min(HELD_TO_SORT, settings.held_back)
        self.times_ms, self.held = known.times_ms, newest(known.times_ms, share)
        self.positives = int(defective(self._classes, self._blank).sum())
        epochs = settings.epochs_of(EPOCHS, EPOCHS_QUICK)
        self.data: ImageData = self._data(task)
        decay = max(0.0, 1 - AVERAGED_PARTS / (epochs * self.data.steps_per_epoch))
        self.recipe = Recipe(epochs, SIZES_QUICK if settings.quick else SIZES, epochs, average_decay=decay)

    def _data(self, task: DefectTask) -> ImageData:
        from models.moe.image import ImageSizes
        from models.train.images import ImageChoices, ImageData

        choices = ImageChoices(
            batch=max(1, min(BATCH, int((~self.held).sum()))),
            quarter_turns=task.quarter_turns,
            mixup=0.0 if task.sound is not None else 0.2,  # half a small defect is none that anybody would see
        )
        sizes = ImageSizes(8, 16) if self.settings.quick else ImageSizes()
        count = len(self._blank.classes)
        return ImageData(self._known.values, self._classes, count, self.held, choices, sizes)

    def space(self) -> dict[str, Choice]:
        """Return how far labels may be smoothed, and how much the evidence by place may count."""
        choices = self.data.choices
        return {
            "smoothing": Choice(choices.smoothing, 0.0, SMOOTHING_MAX),
            "evidence_weight": Choice(choices.evidence_weight, *EVIDENCE_WEIGHT, log=True),
        }

    def tune(self, values: Mapping[str, Value]) -> None:
        """Train with some values from now on."""
        super().tune(values)
        own = ("smoothing", "evidence_weight")
        self.data = self.data.changed({name: values[name] for name in own if name in values})

    def make(self, trained: Trained | None, folder: Path, progress: Progress) -> Made:
        """Choose temperature, threshold and the scale of heat maps by the held-back images."""
        from models.export_images import export_images

        assert trained is not None
        pixels, blank, held, whole = self._known.values, self._blank, self.held, trained.network
        gate = pixels[:: -(-len(pixels) // GATE_IMAGES)]
        network = self.exported(lambda: export_images(whole, gate, self.task.name), progress)
        logits, evidence = DefectModel(network, blank).outputs(pixels[held])
        try:
            card = fit_card(blank, logits, evidence, self._classes[held], self._recall)
        except ValueError as problem:
            raise TrainingError(str(problem)) from None
        told = figures(read_scores(logits, evidence, card), self._classes[held], card)
        metrics = {f"held_back.{name}": value for name, value in told.items()}
        return Made(defect_parts(network, card), ("moe",), metrics, {"recall": self._recall})


def figures(scores: DefectScores, classes: NDArray[np.int64], card: DefectCard) -> dict[str, float]:
    """Return what can be said of scored images: accuracy and macro-F1 of the class, precision and recall of alerts."""
    return class_figures(scores.classes.argmax(1), scores.score, classes, card)


def class_figures(
    said: NDArray[np.int64], score: NDArray[np.float64], classes: NDArray[np.int64], card: DefectCard
) -> dict[str, float]:
    """Return the same of classes that were said, and scores that are alerted from the card's threshold on."""
    found = {"accuracy": float((said == classes).mean()), "macro_f1": macro_f1(said, classes)}
    if card.sound is not None:
        truth = defective(classes, card)
        alerts = at_threshold(score, truth, card.threshold)
        found |= {"auc": roc_auc(score, truth), "recall": alerts.recall, "precision": alerts.precision}
    return {name: round(value, 4) for name, value in found.items()}


def defective(classes: NDArray[np.int64], card: DefectCard) -> NDArray[np.bool_]:
    """Tell which (images,) have a defect."""
    if card.sound is None:
        return np.ones(len(classes), np.bool_)
    return classes != card.classes.index(card.sound)


def _classes(known: Contents, task: DefectTask) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the names of the classes, the sound one first, and the class of each image."""
    counts: dict[str, int] = {}
    for label in known.labels["label"]:
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
    return names, np.array([place[label] for label in known.labels["label"]], np.int64)
