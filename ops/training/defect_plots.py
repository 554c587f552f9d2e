"""The plots of a defect evaluation, as PNG files: which classes are mixed up, and where heat maps point."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.defects import DefectCard, DefectScores
from ops.training.figure_files import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES_PER_CLASS, MISTAKES = 3, 6
Bools = NDArray[np.bool_]


def write_defect_plots(
    out_dir: Path,
    title: str,
    pixels: NDArray[np.uint8],
    drawn: NDArray[np.uint8],
    truth: Bools | None,
    scores: DefectScores,
    classes: NDArray[np.int64],
    card: DefectCard,
) -> dict[str, Path]:
    """Write the confusion matrix, examples of each class and mistakes, with heat maps; return paths by name.

    Args:
        out_dir: where; files of the same names are replaced.
        title: what was evaluated.
        pixels: (n, s, s, c) images.
        drawn: (n, s, s) heat maps.
        truth: (n, s, s) where the defects are, if that is known.
        scores: of the images.
        classes: (n,) what they are.
        card: of the bundle.
    """
    said = scores.classes.argmax(1)
    found = {"confusion": _confusion(out_dir / "confusion.png", title, said, classes, card)}
    chosen = [row for place in range(len(card.classes)) for row in _first(classes == place, EXAMPLES_PER_CLASS)]
    found["examples"] = _shown(out_dir / "examples.png", title, chosen, pixels, drawn, truth, scores, classes, card)
    wrong = _first(said != classes, MISTAKES)
    if wrong:
        found["mistakes"] = _shown(out_dir / "mistakes.png", title, wrong, pixels, drawn, truth, scores, classes, card)
    return found


def _first(which: Bools, count: int) -> list[int]:
    return [int(row) for row in np.flatnonzero(which)[:count]]


def _confusion(path: Path, title: str, said: NDArray[np.int64], classes: NDArray[np.int64], card: DefectCard) -> Path:
    k = len(card.classes)
    counts = np.bincount(classes * k + said, minlength=k * k).reshape(k, k)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        for row, column in np.argwhere(counts):
            color = "white" if counts[row, column] > 0.5 * counts[row].sum() else "black"
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=color)
        axes.set_xticks(range(k), card.classes, rotation=45, ha="right")
        axes.set_yticks(range(k), card.classes)
        axes.set(xlabel="said", ylabel="is")

    return save_figure(path, title, (2.5 + 0.8 * k, 2.2 + 0.7 * k), draw)


def _shown(
    path: Path,
    title: str,
    rows: list[int],
    pixels: NDArray[np.uint8],
    drawn: NDArray[np.uint8],
    truth: Bools | None,
    scores: DefectScores,
    classes: NDArray[np.int64],
    card: DefectCard,
) -> Path:
    """Draw images in columns: the image, its heat map over it and, if known, where the defect is."""
    lines = 2 if truth is None else 3
    wide = min(len(rows), 6)
    bands = -(-len(rows) // wide)

    def draw(figure: Figure) -> None:
        axes = np.atleast_2d(figure.subplots(lines * bands, wide, squeeze=False))
        for each in axes.ravel():
            each.set_axis_off()
        for place, row in enumerate(rows):
            band, column = divmod(place, wide)
            image = pixels[row, :, :, 0] if pixels.shape[3] == 1 else pixels[row]
            top, below = axes[lines * band, column], axes[lines * band + 1, column]
            says, sure = card.classes[int(scores.classes[row].argmax())], scores.classes[row].max()
            top.set_title(f"{card.classes[classes[row]]}\nsaid: {says} {sure:.2f}", fontsize=7)
            for axis in (top, below):
                axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            below.imshow(drawn[row], cmap="inferno", vmin=0, vmax=255, alpha=0.6)
            if truth is not None:
                axes[lines * band + 2, column].imshow(truth[row], cmap="gray", vmin=0, vmax=1)

    return save_figure(path, title, (1.7 * wide + 0.3, 1.75 * lines * bands + 0.5), draw)
