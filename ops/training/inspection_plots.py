"""The plots of an inspection, as PNG files: experts, routing, attention, gradient norms, training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.expert_load import overflow
from models.inspection import Seen
from models.training_memory import TrainingMemory
from ops.training.figure_files import save_figure
from ops.training.inspecting import Inspection
from ops.views.network import token_in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMOOTH = 20  # a running mean is over this part of a curve


def write_plots(found: Inspection, out_dir: Path) -> list[Path]:
    """Write what can be drawn and return the paths; files of the same names are replaced."""
    title = f"{found.bundle.meta.name}, bundle {found.bundle.id}"
    drawn: dict[str, tuple[tuple[float, float], Callable[[Figure], None]]] = {}
    load = found.load()
    if load is not None:
        visits, where = load
        drawn["experts"] = ((8, 1.2 + 2.4 * len(visits)), lambda figure: _experts(figure, visits, where))
    seen, memory = found.seen, found.memory
    if seen is not None:
        names = [token_in_words(name) for name, _ in found.tokens]
        height = 1.2 + 0.35 * (len(names) + 1.5 * len(seen.visits))
        drawn["routing"] = ((8.5, height + 1), lambda figure: _routing(figure, seen, names))
        drawn["attention"] = ((8, 1.5 + 0.4 * len(names)), lambda figure: _attention(figure, seen, names))
    if memory is not None:
        drawn["training"] = ((10, 4.2), lambda figure: _training(figure, memory, found.bundle.meta.task))
    if memory is not None and memory.curves is not None:
        drawn["gradient_norms"] = ((8, 5), lambda figure: _gradient_norms(figure, memory))
    out_dir.mkdir(parents=True, exist_ok=True)
    return [save_figure(out_dir / f"{name}.png", title, size, draw) for name, (size, draw) in drawn.items()]


def _experts(figure: Figure, load: NDArray[np.int64], where: str) -> None:
    each_axes = np.atleast_1d(figure.subplots(len(load), 1, sharex=True))
    for layer, (axes, visits) in enumerate(zip(each_axes, load, strict=True), start=1):
        times = visits / max(float(visits.mean()), 1e-12)
        axes.bar(np.arange(visits.size), times, color="tab:blue")
        axes.axhline(1, linestyle=":", color="grey")
        axes.set(title=f"Layer {layer}: load of each expert, {where}", ylabel="times the mean")
        axes.set_xticks(range(visits.size))
    each_axes[-1].set_xlabel("expert")


def _routing(figure: Figure, seen: Seen, names: list[str]) -> None:
    rows = [len(layer) for layer in seen.visits]
    each_axes = np.atleast_1d(figure.subplots(len(rows), 1, height_ratios=[count + 0.5 for count in rows]))
    shares = [layer / np.maximum(layer.sum(axis=1, keepdims=True), 1) for layer in seen.visits]
    highest = max(float(share.max()) for share in shares)
    for layer, (axes, share) in enumerate(zip(each_axes, shares, strict=True), start=1):
        image = axes.imshow(share, aspect="auto", cmap="Blues", vmin=0, vmax=highest)
        who = "each token visits" if len(share) > 1 else "the summary visits, the others end here"
        axes.set_title(f"Layer {layer}: which experts {who}")
        axes.set_yticks(range(len(share)), names[: len(share)])
        axes.set_xticks(range(share.shape[1]))
    each_axes[-1].set_xlabel("expert")
    figure.colorbar(image, ax=list(each_axes), label="share of the token's visits", format="{x:.0%}")


def _attention(figure: Figure, seen: Seen, names: list[str]) -> None:
    axes = figure.subplots()
    layers, places = len(seen.attention), np.arange(len(names))
    height = 0.8 / layers
    for layer, share in enumerate(seen.attention):
        axes.barh(places + (layer - (layers - 1) / 2) * height, share, height, label=f"layer {layer + 1}")
    axes.axvline(1 / len(names), linestyle=":", color="grey", label="if it looked at all alike")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set(title=f"Where the summary token looks, mean of {seen.events:,} events", xlabel="share of its attention")
    axes.legend()


def _gradient_norms(figure: Figure, memory: TrainingMemory) -> None:
    assert memory.curves is not None
    axes: Axes = figure.subplots()
    for part, values in memory.curves.part_norms.items():
        known = np.array([np.nan if value is None else value for value in values])
        axes.plot(*_smooth(memory.curves.step, known), linewidth=1, label=part)
    axes.plot(*_smooth(memory.curves.step, np.array(memory.curves.gradient_norm)), color="black", label="all")
    axes.set(title="Gradient norm before clipping", xlabel="optimizer step", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(ncols=2, fontsize=8)


def _training(figure: Figure, memory: TrainingMemory, task: str) -> None:
    losses, quality, load = figure.subplots(1, 3)
    numbers = range(1, len(memory.epochs) + 1)
    if memory.curves is not None:
        steps, smooth = _smooth(memory.curves.step, np.array(memory.curves.loss))
        losses.plot(steps * len(memory.epochs) / memory.steps, smooth, label="all tasks, running mean")
    own = [(number, epoch.tasks[task]) for number, epoch in zip(numbers, memory.epochs, strict=True)
           if task in epoch.tasks]  # fmt: skip
    losses.plot([number for number, _ in own], [its.loss for _, its in own], "o-", label=f"{task}, mean of an epoch")
    losses.set(title="Loss of the training", xlabel="epoch", yscale="log")
    quality.plot([number for number, _ in own], [its.figure for _, its in own], "o-", label=f"{task}")
    quality.axvline(memory.best_epoch, linestyle=":", color="grey", label="best epoch")
    quality.set(title="Validation: the figure that chooses", xlabel="epoch", xticks=numbers)
    for layer in range(len(memory.best.loads)):
        over = [overflow(np.array(each.loads[layer].visits)) for each in memory.epochs]
        load.plot(numbers, over, "o-", label=f"layer {layer + 1}")
    load.set(title="Overflow of the experts (MaxVio)", xlabel="epoch", xticks=numbers, ylim=(0, None))
    for axes in (losses, quality, load):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)


def _smooth(steps: list[int], values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return running means, so that a curve of single batches can be read; each stands at the last of its steps."""
    window = max(1, len(values) // SMOOTH)
    return np.array(steps[window - 1 :]), np.convolve(values, np.ones(window) / window, mode="valid")
