"""The plots of a support evaluation, as PNG files: what passes at which line, and which intents are mixed up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ops.training.figure_files import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIXED_UP_SHOWN = 20


def write_support_plots(
    out_dir: Path,
    title: str,
    names: Sequence[str],
    classes: NDArray[np.int64],
    said: NDArray[np.int64],
    score: NDArray[np.float64],
    line: float,
) -> dict[str, Path]:
    """Write what passes, and if any are, which intents are mixed up; return their paths by name.

    Args:
        out_dir: where; files of the same names are replaced.
        title: what was evaluated.
        names: of the intents.
        classes: (n,) the right ones, -1 out of scope.
        said: (n,) the most probable ones.
        score: (n,) how probable they are.
        line: below which a message counts as out of scope.
    """
    found = {"scope": _scope(out_dir / "scope.png", title, classes, said, score, line)}
    wrong = (classes >= 0) & (said != classes)
    if wrong.any():
        found["mixed_up"] = _mixed_up(out_dir / "mixed_up.png", title, names, classes[wrong], said[wrong])
    return found


def _scope(
    path: Path, title: str, classes: NDArray[np.int64], said: NDArray[np.int64], score: NDArray[np.float64], line: float
) -> Path:
    inside, lines = classes >= 0, np.linspace(0, 1, 201)
    order = np.argsort(-score[inside], kind="stable")
    correct = (said[inside] == classes[inside])[order]
    counts = np.arange(1, correct.size + 1)

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        left.plot(lines, [np.mean(score[inside] >= each) for each in lines], label="within scope")
        if not inside.all():
            left.plot(lines, [np.mean(score[~inside] >= each) for each in lines], label="out of scope")
        left.axvline(line, color="grey", linestyle=":")
        left.set(xlabel="line", ylabel="share that passes", ylim=(0, 1.02))
        left.legend(frameon=False)
        right.plot(counts / max(correct.size, 1), np.cumsum(correct) / counts)
        right.set(xlabel="share of messages, the surest first", ylabel="accuracy", ylim=(None, 1.005))

    return save_figure(path, title, (8.0, 4.0), draw)


def _mixed_up(
    path: Path, title: str, names: Sequence[str], classes: NDArray[np.int64], said: NDArray[np.int64]
) -> Path:
    pairs, counts = np.unique(np.stack([classes, said], axis=1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MIXED_UP_SHOWN][::-1]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.barh([f"{names[pairs[at][0]]} as {names[pairs[at][1]]}" for at in order], counts[order])
        axes.tick_params(labelsize=7)
        axes.set(xlabel="messages")

    return save_figure(path, title, (8.0, 1.2 + 0.25 * len(order)), draw)
