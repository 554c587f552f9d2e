"""The training report: figures as JSON, curves as PNG."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.expert_load import dead, entropy, overflow
from models.train.task_data import Validation

POINTS_MAX = 500  # of a curve in the report: neighbouring steps of a longer training share one


@dataclass
class History:
    """What happened so far: per optimizer step, and per epoch."""

    tasks: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    task_losses: dict[str, list[float]] = field(default_factory=dict)
    gradient_norms: list[float] = field(default_factory=list)
    part_norms: dict[str, list[float]] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)

    def add_step(
        self, losses: dict[str, float], weights: dict[str, float], norm: float, part_norms: dict[str, float]
    ) -> None:
        """Note one optimizer step.

        Args:
            losses: training loss of each task that took part; noted as a whole, too, with the others' last ones.
            weights: of the tasks' losses.
            norm: of the gradient before clipping.
            part_norms: of each part of it.
        """
        for task, loss in losses.items():
            self.task_losses.setdefault(task, []).append(loss)
        self.losses.append(sum(weights[task] * its[-1] for task, its in self.task_losses.items()))
        self.gradient_norms.append(norm)
        for part, its in part_norms.items():
            self.part_norms.setdefault(part, []).append(its)

    def curves(self, points_max: int = POINTS_MAX) -> dict[str, Any]:
        """Return means over neighbouring steps, and the last step of each; None where a part was not noted."""
        together = max(1, math.ceil(len(self.losses) / points_max))
        starts = range(0, len(self.losses), together)

        def means(values: list[float]) -> list[float | None]:
            late = len(self.losses) - len(values)  # a checkpoint of before it was noted has none
            spans = [values[max(start - late, 0) : max(start + together - late, 0)] for start in starts]
            return [float(f"{np.mean(span):.6g}") if span else None for span in spans]

        return {
            "step": [min(start + together, len(self.losses)) for start in starts],
            "loss": means(self.losses),
            "gradient_norm": means(self.gradient_norms),
            "part_norms": {part: means(norms) for part, norms in self.part_norms.items()},
            "task_losses": {task: _means(its, points_max) for task, its in self.task_losses.items()},
        }

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) with the best validation score, the first of equals; 0 before any."""
        found = [epoch["score"] for epoch in self.epochs]
        return 1 + found.index(max(found)) if found else 0

    def stalled(self, patience: int) -> bool:
        """Whether the last `patience` epochs brought nothing better."""
        return len(self.epochs) - self.best_epoch >= patience and bool(self.epochs)

    def add_epoch(
        self,
        steps: int,
        own_steps: dict[str, int],
        chosen: dict[str, float],
        figures: dict[str, dict[str, float]],
        loads: list[dict[str, Any]],
        task_loads: dict[str, list[dict[str, Any]]],
    ) -> None:
        """Note one epoch. Its score is the mean of the tasks' figures that choose.

        Args:
            steps: that it had.
            own_steps: how many each task took part in.
            chosen: of each task, the figure that tells how good the epoch is.
            figures: of each task, all validation figures.
            loads: of each block's experts, the tasks together, each counting alike.
            task_loads: the same of each task.
        """
        tasks = {
            task: {
                "loss": float(np.mean(self.task_losses[task][-own_steps[task] :])),
                "figure": chosen[task],
                "validation": its,
                "loads": task_loads[task],
            }
            for task, its in figures.items()
        }
        loss, score = float(np.mean(self.losses[-steps:])), float(np.mean(list(chosen.values())))
        self.epochs.append({"loss": loss, "score": score, "tasks": tasks, "loads": loads})


def _means(values: list[float], points_max: int) -> list[float]:
    together = max(1, math.ceil(len(values) / points_max))
    return [float(f"{np.mean(values[at : at + together]):.6g}") for at in range(0, len(values), together)]


def load_figures(visits: NDArray[np.int64]) -> dict[str, Any]:
    """Describe how evenly the experts of a block were used, see `models.expert_load`."""
    return {
        "visits": visits.tolist(),
        "max_violation": round(overflow(visits), 4),
        "dead_experts": dead(visits),
        "entropy": round(entropy(visits), 4),
    }


def write_report(
    out_dir: Path, history: History, provenance: dict[str, Any], judged: dict[str, Validation]
) -> dict[str, Any]:
    """Write training_report.json and the plots; `judged` is the best epoch's network, task by task."""
    best = history.epochs[history.best_epoch - 1]
    report = {
        **provenance,
        "best_epoch": history.best_epoch,
        "score": best["score"],
        "validation": {task: its["validation"] for task, its in best["tasks"].items()},
        "loads": best["loads"],
        "epochs": history.epochs,
        "steps": len(history.losses),
        "curves": history.curves(),
    }
    (out_dir / "training_report.json").write_text(json.dumps(report, indent=1) + "\n")
    _plots(out_dir, history, judged)
    return report


def _plots(out_dir: Path, history: History, judged: dict[str, Validation]) -> None:
    """Draw a row for each task, loss, figure and its own curves, and one of gradients and loads for all."""
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display
    from matplotlib.ticker import MaxNLocator

    columns = 2 + max(len(validation.curves) for validation in judged.values())
    figure = Figure(figsize=(4.6 * columns, 4 * (1 + len(judged))), layout="constrained")
    axes = figure.subplots(1 + len(judged), columns, squeeze=False)
    epochs = range(1, len(history.epochs) + 1)
    for (task, validation), row in zip(judged.items(), axes, strict=False):
        losses = _smooth(history.task_losses[task])
        row[0].plot(np.linspace(0, len(epochs), len(losses)), losses)
        row[0].set(title=f"{task}: training loss", xlabel="epoch", yscale="log")
        row[1].plot(epochs, [epoch["tasks"][task]["figure"] for epoch in history.epochs], "o-")
        row[1].axvline(history.best_epoch, linestyle=":")
        row[1].set(title=f"{task}: validation", xlabel="epoch")
        row[1].xaxis.set_major_locator(MaxNLocator(integer=True))
        for axis, curve in zip(row[2:], validation.curves, strict=False):
            axis.plot(curve.x, curve.y)
            axis.set(title=f"{task}: {curve.title}", xlabel=curve.x_label, ylabel=curve.y_label)
    last = axes[-1]
    last[0].plot(_smooth(history.gradient_norms))
    last[0].set(title="Gradient norm before clipping", xlabel="step", yscale="log")
    for layer, load in enumerate(history.epochs[history.best_epoch - 1]["loads"]):
        visits = np.array(load["visits"])
        places = np.arange(len(visits)) + 0.4 * layer
        last[1].bar(places, visits / max(visits.mean(), 1e-12), width=0.38, label=f"block {layer + 1}")
    last[1].axhline(1, linestyle=":")
    last[1].set(title="Load of experts over the mean", xlabel="expert")
    last[1].legend()
    for axis in axes.flat:
        if not axis.has_data():
            axis.set_axis_off()
    figure.savefig(out_dir / "training_report.png", dpi=90)


def _smooth(values: list[float]) -> NDArray[np.float64]:
    window = max(1, math.ceil(len(values) / 100))
    return np.convolve(values, np.ones(window) / window, mode="valid")
