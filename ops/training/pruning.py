"""Pruning in a training: how far the experts of a task's network can be cut, and what that brings, cycle by cycle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ops.progress import Progress, Stage
from ops.training.distilling import times_ms

if TYPE_CHECKING:
    from models.moe.network import MoENetwork
    from models.train.task_data import TaskData
    from ops.training.training import TrainingSettings

PRUNING = "pruning"  # in the training report: task -> cycles
PLOT = "pruning.png"
TUNING_RATE = 5e-4
TOLERANCES = {"auc": 0.002, "accuracy": 0.005}  # what a figure may lose, where nothing else is asked for


@dataclass(frozen=True)
class PrunedFigures:
    """One cycle of a pruning.

    Attributes:
        pruned: share of the experts' hidden numbers that is gone.
        parameters: of the network.
        size_bytes: of its ONNX file.
        one_ms: median time of one example alone, one thread.
        many_ms: of one among 64.
        figure: on what is held back, named `of`.
        is_good: whether that is within the tolerance.
    """

    pruned: float
    parameters: int
    size_bytes: int
    one_ms: float
    many_ms: float
    of: str
    figure: float
    is_good: bool


def pruned_rows(cycles: Sequence[PrunedFigures]) -> tuple[list[str], list[list[str]]]:
    """Return a table of cycles; the last good one serves."""
    serves = max(number for number, each in enumerate(cycles) if each.is_good)
    rows = [
        [f"{each.pruned:.0%}", f"{each.parameters:,}", f"{each.size_bytes:,}", f"{each.one_ms:.3f}",
         f"{each.many_ms:.4f}", f"{each.figure:.4f}", "serves" if number == serves else ""]
        for number, each in enumerate(cycles)
    ]  # fmt: skip
    return ["pruned", "parameters", "bytes", "ms alone", "ms of 64", cycles[0].of, ""], rows


def report_pruning(report_path: Path, task: str, cycles: Sequence[PrunedFigures]) -> None:
    """Write the cycles of a pruning, if there was one, into the training report, and draw them beside it."""
    if not cycles:
        return
    report = msgspec.json.decode(report_path.read_bytes())
    report.setdefault(PRUNING, {})[task] = msgspec.to_builtins(cycles)
    report_path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    _plot(report_path.with_name(f"{task}-{PLOT}"), task, cycles)


def _plot(path: Path, task: str, cycles: Sequence[PrunedFigures]) -> None:
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    shown = [100 * each.pruned for each in cycles]
    for axis, name, values in zip(
        figure.subplots(1, 3),
        (f"{cycles[0].of} on what is held back", "size in MB", "ms of one example alone"),
        (
            [each.figure for each in cycles],
            [each.size_bytes / 1e6 for each in cycles],
            [each.one_ms for each in cycles],
        ),
        strict=True,
    ):
        axis.plot(shown, values, "o-")
        axis.set(title=f"{task}: {name}", xlabel="% of the experts' hidden numbers pruned")
        axis.axvline(max(at for at, each in zip(shown, cycles, strict=True) if each.is_good), linestyle=":")
    figure.savefig(path, dpi=90)


def prune_network(
    network: MoENetwork,
    task: str,
    data: TaskData,
    settings: TrainingSettings,
    exported: Callable[[MoENetwork], bytes],
    progress: Progress,
) -> tuple[MoENetwork, list[PrunedFigures]]:
    """Prune the part of a network that belongs to a task; return what serves, and what each cycle brought.

    Args:
        network: trained; it is left as it is.
        task: of it.
        data: what it was trained on.
        settings: of the training.
        exported: makes the ONNX file of a network.
        progress: told of the stage "prune".
    """
    from models.moe.network import cut_out
    from models.train.prune import Cycle, PruneSettings, prune
    from models.train.tuning import Tuning

    figure = "auc" if data.figure == "average_precision" else "accuracy"
    tolerance = TOLERANCES[figure] if settings.prune_tolerance is None else settings.prune_tolerance
    tuning = Tuning(1, TUNING_RATE, average_decay=0.95, seed=settings.seed, threads=settings.threads)
    found: list[PrunedFigures] = []

    def note(cycle: Cycle, its: MoENetwork) -> None:
        file = exported(its)
        found.append(PrunedFigures(cycle.pruned, cycle.parameters, len(file), *times_ms(file), figure,
                                   round(cycle.figure, 5), cycle.is_good))  # fmt: skip

    alone = cut_out(network, task).cpu().eval()
    best, cycles = prune(
        alone,
        data,
        figure,
        PruneSettings(tolerance, tuning=tuning),
        lambda *told: progress(Stage("prune", *told)),
        note,
    )
    last = max((each for each in cycles if each.is_good), key=lambda each: each.pruned)
    progress(Stage("prune", 1, 1, f"{last.pruned:.0%} gone, {figure} {last.figure:.4f}"))
    return best, found
