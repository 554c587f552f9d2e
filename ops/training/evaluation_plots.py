"""The plots of an evaluation, as PNG files: ROC, precision and recall, calibration, scores over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.metrics import (
    average_precision,
    calibration_error,
    precision_recall_curve,
    roc_auc,
    roc_curve,
)
from ops.training.figure_files import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Float64s = NDArray[np.float64]
INCHES = (7.0, 5.5)
BINS, EVENTS_MIN = 14, 20
PERIODS = 56  # over which scores are summed up: 3 hours each in a test of a week


def write_plots(
    out_dir: Path, title: str, scores: Mapping[str, Float64s], labels: Float64s, times_ms: NDArray[np.int64],
    thresholds: Float64s,
) -> dict[str, Path]:  # fmt: skip
    """Write four plots and return their paths by name.

    Args:
        out_dir: where; files of the same names are replaced.
        title: what was evaluated, the first line of every plot.
        scores: model -> (n,) probabilities; the first model is the one that decides.
        labels: (n,) 0 or 1, both there.
        times_ms: (n,) event times.
        thresholds: (n,) where alerts begin for the first model.
    """
    first = next(iter(scores.values()))
    drawn: dict[str, Callable[[Axes], None]] = {
        "roc": lambda axes: _roc(axes, scores, labels),
        "precision_recall": lambda axes: _precision_recall(axes, scores, labels),
        "calibration": lambda axes: _calibration(axes, scores, labels),
        "scores_over_time": lambda axes: _over_time(axes, first, labels, times_ms, thresholds),
    }
    return {name: _save(out_dir / f"{name}.png", title, draw) for name, draw in drawn.items()}


def _save(path: Path, title: str, draw: Callable[[Axes], None]) -> Path:
    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(alpha=0.3)
        draw(axes)

    return save_figure(path, title, INCHES, fill)


def _roc(axes: Axes, scores: Mapping[str, Float64s], labels: Float64s) -> None:
    for name, score in scores.items():
        false, true, _ = roc_curve(score, labels)
        axes.plot(false, true, label=f"{name}: AUC {roc_auc(score, labels):.3f}", linewidth=1.4)
    axes.plot([0, 1], [0, 1], ":", color="grey", label="chance: AUC 0.5")
    axes.set(title="ROC", xlabel="share of genuine events alerted", ylabel="share of positives alerted")
    axes.legend(loc="lower right")


def _precision_recall(axes: Axes, scores: Mapping[str, Float64s], labels: Float64s) -> None:
    for name, score in scores.items():
        precision, recall, _ = precision_recall_curve(score, labels)
        axes.plot(recall, precision, label=f"{name}: average {average_precision(score, labels):.3f}", linewidth=1.4)
    share = float(labels.mean())
    axes.axhline(share, linestyle=":", color="grey", label=f"chance: {share:.3f}")
    axes.set(title="Precision and recall", xlabel="recall: share of positives found",
             ylabel="precision: share of alerts that are right", ylim=(0, 1.02))  # fmt: skip
    axes.legend(loc="lower left")


def _calibration(axes: Axes, scores: Mapping[str, Float64s], labels: Float64s) -> None:
    for name, score in scores.items():
        mean, share = _bins(score, labels)
        error = calibration_error(score, labels)
        some = share > 0  # none has no place on a logarithmic axis
        axes.plot(mean[some], share[some], "o-", markersize=4, linewidth=1, label=f"{name}: error {error:.5f}")
    low = max(min(float(score.min()) for score in scores.values()), 0.5 / labels.size)
    axes.plot([low, 1], [low, 1], ":", color="grey", label="perfect")
    axes.set(title=f"Calibration, in bins of {EVENTS_MIN} events or more with a positive", xscale="log", yscale="log",
             xlabel="mean probability of a bin", ylabel="share of positives in it")  # fmt: skip
    axes.legend(loc="upper left")


def _bins(score: Float64s, labels: Float64s) -> tuple[Float64s, Float64s]:
    """Return mean probability and share of positives in bins of equal width in log odds, those with enough events.

    Bins of equally many events, which the error is taken over, would put all that matters into one point.
    """
    inside = np.clip(score, 1e-7, 1 - 1e-7)
    odds = np.log(inside / (1 - inside))
    edges = np.linspace(odds.min(), odds.max(), BINS + 1)
    bin_of = np.clip(np.searchsorted(edges, odds, side="right") - 1, 0, BINS - 1)
    events = np.bincount(bin_of, minlength=BINS)
    full = events >= EVENTS_MIN
    mean, share = (np.bincount(bin_of, values, BINS)[full] / events[full] for values in (score, labels))
    return mean, share


def _over_time(
    axes: Axes, score: Float64s, labels: Float64s, times_ms: NDArray[np.int64], thresholds: Float64s
) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    moments = times_ms.astype("datetime64[ms]")
    edges = np.linspace(times_ms.min(), times_ms.max() + 1, PERIODS + 1)
    period = np.searchsorted(edges, times_ms, side="right") - 1
    middles = ((edges[:-1] + edges[1:]) / 2).astype(np.int64).astype("datetime64[ms]")
    genuine = labels == 0
    for quantile, shade in ((0.5, "tab:blue"), (0.99, "tab:cyan")):
        line = [_quantile(score[genuine & (period == each)], quantile) for each in range(PERIODS)]
        axes.plot(middles, line, color=shade, label=f"genuine events, {quantile:.0%} below")
    axes.plot(moments[~genuine], score[~genuine], ".", color="tab:red", markersize=4, alpha=0.6, label="positives")
    order = np.argsort(times_ms, kind="stable")
    axes.plot(moments[order], thresholds[order], "--", color="black", linewidth=1, label="threshold")
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set(title="Scores over time", xlabel="event time, UTC", ylabel="score (probability)", yscale="log",
             ylim=(max(float(score.min()), 1e-6), 1.5))  # fmt: skip
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4, fontsize=8)


def _quantile(values: Float64s, quantile: float) -> float:
    return float(np.quantile(values, quantile)) if values.size else float("nan")
