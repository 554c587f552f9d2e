"""The training report: figures as JSON, curves as PNG."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.expert_load import dead, entropy, overflow
from models.train.dataset import Dataset

POINTS_MAX = 500  # of a curve in the report: neighbouring steps of a longer training share one


@dataclass
class History:
    """What happened so far: per optimizer step, and per epoch."""

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    part_norms: dict[str, list[float]] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)

    def add_step(self, loss: float, norm: float, part_norms: dict[str, float]) -> None:
        """Note one optimizer step: training loss, norm of the gradient before clipping, and of each part of it."""
        self.losses.append(loss)
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
        }

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) with the best validation average precision, the first of equals; 0 before any."""
        found = [epoch["average_precision"] for epoch in self.epochs]
        return 1 + found.index(max(found)) if found else 0

    def stalled(self, patience: int) -> bool:
        """Whether the last `patience` epochs brought nothing better."""
        return len(self.epochs) - self.best_epoch >= patience and bool(self.epochs)

    def add_epoch(self, loss: float, figures: dict[str, float], loads: list[dict[str, Any]]) -> None:
        """Note one epoch: mean training loss, validation figures, the load of each block's experts."""
        self.epochs.append({"loss": loss, **figures, "loads": loads})


def load_figures(visits: NDArray[np.int64]) -> dict[str, Any]:
    """Describe how evenly the experts of a block were used, see `models.expert_load`."""
    return {
        "visits": visits.tolist(),
        "max_violation": round(overflow(visits), 4),
        "dead_experts": dead(visits),
        "entropy": round(entropy(visits), 4),
    }


def ranking_figures(
    labels: NDArray[np.uint8], logits: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, float]:
    """Compute average precision, AUC, log-loss and the mean probability beside the share of positives."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    # log(1 + exp(x)) without overflow
    losses = np.logaddexp(0, logits) - labels * logits
    return {
        "average_precision": float(average_precision_score(labels, logits, sample_weight=weights)),
        "auc": float(roc_auc_score(labels, logits, sample_weight=weights)),
        "log_loss": float(np.average(losses, weights=weights)),
        "mean_probability": float(np.average(0.5 * (1 + np.tanh(logits / 2)), weights=weights)),
        "share_positive": float(np.average(labels, weights=weights)),
    }


def write_report(
    out_dir: Path, history: History, provenance: dict[str, Any], scores: NDArray[np.float64], data: Dataset
) -> dict[str, Any]:
    """Write training_report.json and the plots; `scores` are the best epoch's logits of the validation rows."""
    best = history.epochs[history.best_epoch - 1]
    report = {
        **provenance,
        "events": {
            "training_positives": len(data.positives),
            "training_negatives": len(data.negatives),
            "validation": len(data.validation),
            "validation_from_ms": data.split_ms,
        },
        "best_epoch": history.best_epoch,
        "validation": {name: value for name, value in best.items() if name not in ("loss", "loads")},
        "loads": best["loads"],
        "epochs": history.epochs,
        "steps": len(history.losses),
        "curves": history.curves(),
    }
    (out_dir / "training_report.json").write_text(json.dumps(report, indent=1) + "\n")
    _plots(out_dir, history, data.labels[data.validation], scores, data.validation_weights)
    return report


def _plots(
    out_dir: Path,
    history: History,
    labels: NDArray[np.uint8],
    scores: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> None:
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure = Figure(figsize=(14, 8), layout="constrained")
    axes = figure.subplots(2, 3)
    per_epoch = max(1, len(history.losses) // len(history.epochs))
    ends = [per_epoch * (i + 1) for i in range(len(history.epochs))]
    axes[0, 0].plot(_smooth(history.losses), label="training, resampled")
    axes[0, 0].plot(ends, [epoch["log_loss"] for epoch in history.epochs], "o-", label="validation, all events")
    axes[0, 0].set(title="Log-loss", xlabel="step", yscale="log")
    axes[0, 0].legend()
    axes[0, 1].plot(range(1, len(ends) + 1), [epoch["average_precision"] for epoch in history.epochs], "o-")
    axes[0, 1].axvline(history.best_epoch, linestyle=":")
    axes[0, 1].set(title="Validation average precision", xlabel="epoch")
    axes[0, 2].plot(_smooth(history.gradient_norms))
    axes[0, 2].set(title="Gradient norm before clipping", xlabel="step", yscale="log")
    precision, recall, _ = precision_recall_curve(labels, scores, sample_weight=weights)
    axes[1, 0].plot(recall, precision)
    axes[1, 0].set(title="Validation: precision and recall", xlabel="recall", ylabel="precision")
    false_positive, true_positive, _ = roc_curve(labels, scores, sample_weight=weights)
    axes[1, 1].plot(false_positive, true_positive)
    axes[1, 1].set(title="Validation: ROC", xlabel="false positive rate", ylabel="true positive rate")
    loads = history.epochs[history.best_epoch - 1]["loads"]
    for layer, load in enumerate(loads):
        visits = np.array(load["visits"])
        places = np.arange(len(visits)) + 0.4 * layer
        axes[1, 2].bar(places, visits / max(visits.mean(), 1e-12), width=0.38, label=f"block {layer + 1}")
    axes[1, 2].axhline(1, linestyle=":")
    axes[1, 2].set(title="Load of experts over the mean", xlabel="expert")
    axes[1, 2].legend()
    figure.savefig(out_dir / "training_report.png", dpi=90)


def _smooth(values: list[float]) -> NDArray[np.float64]:
    window = max(1, math.ceil(len(values) / 100))
    return np.convolve(values, np.ones(window) / window, mode="valid")
