"""Small pictures out of characters: two pixels in a cell, the upper one above the lower one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text

Pixels = NDArray[np.uint8]
SHADES = " ░▒▓█"  # where there are no colours


def shrunk(pixels: Pixels, size: int) -> NDArray[np.float64]:
    """Average (s, s) brightness over (size, size) cells.

    >>> shrunk(np.array([[0, 0, 4, 4], [0, 0, 4, 4], [8, 8, 1, 1], [8, 8, 1, 1]], np.uint8), 2).tolist()
    [[0.0, 4.0], [8.0, 1.0]]
    """
    edges = np.linspace(0, pixels.shape[0], size + 1).round().astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(np.float64), edges, 0), edges, 1)
    width = np.diff([*edges, pixels.shape[0]])
    return sums / np.outer(width, width)


def photo_and_heat(photo: Pixels, heat: Pixels, rows: int, beside: bool = True, colours: bool = True) -> Text:
    """Draw a photograph with its heat map in red; 2 * rows columns, `rows` lines.

    Args:
        photo, heat: (s, s) brightness.
        rows: lines of text.
        beside: whether the photograph alone stands beside it, which makes it 4 * rows + 1 columns.
        colours: whether the terminal has any; without, photograph and heat are drawn in shades, apart.
    """
    size = 2 * rows
    gray = shrunk(photo, size)
    low, high = np.percentile(gray, (2, 98))
    gray = np.clip((gray - low) / max(high - low, 1.0), 0, 1)
    hot = shrunk(heat, size) / 255
    if not colours:
        images = [_shaded(each) for each in ((gray, hot) if beside else (hot,))]
        return Text("\n".join(map(" ".join, zip(*images, strict=True))), no_wrap=True)
    plain = np.repeat(255 * gray[:, :, None], 3, axis=2)
    red = plain * (1 - 0.6 * hot[:, :, None])
    red[:, :, 0] = np.maximum(red[:, :, 0], 255 * hot)
    lines = [_line([plain, red] if beside else [red], row) for row in range(rows)]
    return Text("\n", no_wrap=True).join(lines)


def _line(images: list[NDArray[np.float64]], row: int) -> Text:
    halves = [
        Text.assemble(*(("▀", Style(color=_color(upper), bgcolor=_color(lower)))
                        for upper, lower in zip(image[2 * row], image[2 * row + 1], strict=True)))
        for image in images
    ]  # fmt: skip
    return Text(" ").join(halves)


def _color(rgb: NDArray[np.float64]) -> Color:
    red, green, blue = (round(each) for each in rgb.tolist())
    return Color.from_rgb(red, green, blue)


def _shaded(values: NDArray[np.float64]) -> list[str]:
    means = (values[0::2] + values[1::2]) / 2
    places = np.minimum((means * len(SHADES)).astype(int), len(SHADES) - 1)
    return ["".join(SHADES[place] for place in row) for row in places.tolist()]
