"""A plot as a PNG file: nothing global, no display."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110


def save_figure(path: Path, title: str, inches: tuple[float, float], draw: Callable[[Figure], None]) -> Path:
    """Let `draw` fill a figure, write it and return the path; a file of that name is replaced."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot

    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    draw(figure)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path
