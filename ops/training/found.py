"""What evaluations of all kinds of tasks have in common: what they may choose, what they find, how they report it."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.expert_load import ExpertLoad, dead, entropy, overflow
from models.scorer import TRAINING
from models.training_memory import read_memory
from ops.training.protocol import iso
from ops.training.training import TrainingSettings
from pipeline.app import AnyTask

REPORT = "evaluation.json"
Table = tuple[list[str], list[list[str]]]
FigurePairs = dict[str, tuple[float, float | None]]


class EvaluationError(ValueError):
    """What was asked for cannot be evaluated; the message says what to change."""


@dataclass(frozen=True)
class EvaluationSettings:
    """What can be chosen about an evaluation besides its days.

    Attributes:
        baseline: also train what one would use without Pelton, on the same part of the history.
        online: also let the learner go on learning during the test.
        training: how to train where no bundle is given; its time range is that of the days.
        seed: of the baseline.
        masks: of images: a folder with ID.png for each with a defect, white where it is.
    """

    baseline: bool = True
    online: bool = True
    training: TrainingSettings = field(default_factory=TrainingSettings)
    seed: int = 0
    masks: Path | None = None


@dataclass(frozen=True)
class Experts:
    """How experts were visited.

    Attributes:
        visits: (layers, e) visits.
        where: they were counted.
    """

    visits: NDArray[np.int64]
    where: str

    def to_json(self) -> dict[str, Any]:
        """Return figures of each layer, for a report."""
        return {"of": self.where, "layers": [
            {"visits": layer.tolist(), "entropy": entropy(layer), "dead": dead(layer), "overflow": overflow(layer)}
            for layer in self.visits
        ]}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Found:
    """What an evaluation found.

    Attributes:
        bundle: id of the bundle that was judged.
        notes: what to know before believing the figures.
        report_path: a JSON file with all of it.
        plots: name -> PNG file.
        experts: how they were visited; None where nobody counted, or without a network.
    """

    bundle: str
    notes: tuple[str, ...]
    report_path: Path
    plots: dict[str, Path]
    experts: Experts | None = None

    @abstractmethod
    def summary(self) -> str:
        """Say in one line what was judged."""

    @abstractmethod
    def tables(self) -> list[Table]:
        """Return headers with rows of texts: how good it is, what it is compared with beside it."""

    def write(self, task: AnyTask, bundle: Bundle, told: Mapping[str, Any]) -> None:
        """Write the report: `told`, and what all kinds tell; NaN as null."""
        report = {
            "task": task.name,
            "bundle": {"id": bundle.id, "provenance": bundle.meta.provenance, "metrics": bundle.meta.metrics},
            **told,
            "notes": self.notes,
            "experts": self.experts.to_json() if self.experts is not None else None,
            "plots": {name: path.name for name, path in self.plots.items()},
        }
        self.report_path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def pairs_table(figures: FigurePairs, baseline: str) -> Table:
    """Return figures in words, those of the baseline beside those of the bundle."""
    rows = [
        [name.replace("_", " "), f"{ours:.4g}", "" if theirs is None else f"{theirs:.4g}"]
        for name, (ours, theirs) in figures.items()
    ]
    return ["figure", "bundle", baseline], rows


def pairs_json(figures: FigurePairs, baseline: str) -> dict[str, Any]:
    """Return the same for a report."""
    return {name: {"bundle": ours, baseline: theirs} for name, (ours, theirs) in figures.items()}


def speed(what: str, answer: Callable[[Any], object], examples: Sequence[Any]) -> FigurePairs:
    """Time one example after the other on one thread, in milliseconds."""
    took = []
    for each in examples:
        started = time.perf_counter()
        answer(each)
        took.append(1e3 * (time.perf_counter() - started))
    return {f"{what}_ms_p{share}": (round(float(np.percentile(took, share)), 2), None) for share in (50, 99)}


def notes_on(bundle: Bundle, test_start_ms: int) -> tuple[str, ...]:
    """Warn if a bundle may have learned what it is judged by."""
    told = bundle.meta.provenance
    labels_ms, last_ms = told.get("labels_known_until_ms"), told.get("last_ms")
    what = ("labels known", labels_ms) if labels_ms is not None else ("from events", last_ms)
    if isinstance(what[1], int | float) and what[1] >= test_start_ms:
        return (
            f"bundle {bundle.id} learned {what[0]} until {iso(int(what[1]))}, after the test begins "
            f"({iso(test_start_ms)}): if they are of this history, its figures are too good",
        )
    return ()


def experts_of(bundle: Bundle, counted: ExpertLoad | None = None) -> Experts | None:
    """Return the visits that were counted while serving, else those of the training's best epoch."""
    if counted is not None and (visits := counted.visits()).any():
        return Experts(visits, "the test")
    memory = read_memory(bundle.part(TRAINING)) if TRAINING in bundle.parts else None
    its = memory.best.tasks.get(bundle.meta.task) if memory is not None else None
    if memory is None or its is None:
        return None
    visits = np.array([layer.visits for layer in its.loads], np.int64)
    own = memory.experts if memory.experts is not None else range(visits.shape[1])  # the rest is other tasks' own
    return Experts(visits[:, list(own)], f"epoch {memory.best_epoch} of the training")
