"""Steel surfaces as arrays: rolled texture, and what goes wrong on it, with a mask of where.

Letters: s pixels along a side. Brightness is 0 to 255 before rounding; rows of pixels run along the rolling direction.
Each defect is drawn on a field of its own, `depth` (s, s) from 0 to 1, which is both how strongly it shows and, above
`SEEN`, its mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SOUND, SCRATCH, PIT, INCLUSION = CLASSES = ("none", "scratch", "pit", "inclusion")
SEEN = 0.35  # depth from which on a pixel belongs to the defect
CONTRAST_MIN, CONTRAST_MAX = 14.0, 80.0  # of a defect at its deepest, in levels of brightness; the grain has 2.5 to 5


@dataclass(frozen=True)
class Surface:
    """One photograph.

    Attributes:
        pixels: (s, s) uint8.
        mask: (s, s) bool, True where the defect is; all False on a sound surface.
        defect: one of CLASSES.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    defect: str


def draw_surface(defect: str, chance: np.random.Generator, side: int = 128) -> Surface:
    """Draw a surface with at most one kind of defect; the same generator state gives the same bytes.

    Raises:
        ValueError: an unknown defect.
    """
    if defect not in CLASSES:
        raise ValueError(f"defect is {defect!r}; choose one of {', '.join(CLASSES)}")
    plain = _texture(chance, side)
    if defect == SOUND:
        return Surface(_as_bytes(plain), np.zeros((side, side), np.bool_), defect)
    depth = {SCRATCH: _scratch, PIT: _pits, INCLUSION: _inclusion}[defect](chance, side)
    contrast = chance.uniform(CONTRAST_MIN, CONTRAST_MAX)
    bright = defect == SCRATCH and chance.random() < 0.7  # most scratches shine
    drawn = plain + (contrast if bright else -contrast) * depth * (1 + 0.15 * _noise(chance, side, 1.5, 1.5))
    return Surface(_as_bytes(drawn), depth > SEEN, defect)


def _texture(chance: np.random.Generator, side: int) -> Floats:
    """Draw light that falls off, streaks along the rolling direction, clouds of scale, and grain."""
    along, across = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    slope = chance.normal(0, 9, 2)
    light = chance.uniform(95, 165) + slope[0] * along + slope[1] * across
    streaks = chance.uniform(2, 7) * _noise(chance, side, chance.uniform(0.8, 2.0), chance.uniform(25, 70))
    clouds = chance.uniform(2, 7) * _noise(chance, side, chance.uniform(12, 25), chance.uniform(15, 40))
    return light + streaks + clouds + chance.uniform(2.5, 5) * chance.normal(size=(side, side))


def _noise(chance: np.random.Generator, side: int, across: float, along: float) -> Floats:
    """Draw noise that is smooth over `across` rows and `along` columns of pixels, with deviation 1."""
    frequency = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    damped = np.exp(-2 * np.pi**2 * ((frequency[0] * across) ** 2 + (frequency[1] * along) ** 2))  # a Gaussian blur
    smooth = np.fft.irfft2(np.fft.rfft2(chance.normal(size=(side, side))) * damped, (side, side))
    return (smooth - smooth.mean()) / max(smooth.std(), 1e-9)


def _scratch(chance: np.random.Generator, side: int) -> Floats:
    """Draw one to three thin bent lines, most of them nearly along the rolling direction."""
    depth = np.zeros((side, side))
    slant = chance.normal(0, 0.35) if chance.random() < 0.8 else chance.uniform(-np.pi / 2, np.pi / 2)
    for _ in range(int(chance.integers(1, 4))):
        length = chance.uniform(0.25, 0.9) * side
        step = np.linspace(-0.5, 0.5, 4 * side) * length
        bend = chance.normal(0, 0.06) * step**2 / side
        angle = slant + chance.normal(0, 0.08)
        x = chance.uniform(0.2, 0.8) * side + step * np.cos(angle) - bend * np.sin(angle)
        y = chance.uniform(0.2, 0.8) * side + step * np.sin(angle) + bend * np.cos(angle)
        depth = np.maximum(depth, _stroke(x, y, chance.uniform(0.7, 1.8), side))
    return depth


def _stroke(x: Floats, y: Floats, width: float, side: int) -> Floats:
    """Draw a line through points with a soft edge; `width` is its half width in pixels."""
    depth = np.zeros((side, side))
    reach = int(np.ceil(width + 1.5))
    row, column = np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            r, c = row + down, column + right
            inside = (r >= 0) & (r < side) & (c >= 0) & (c < side)
            far = np.hypot(r - y, c - x)[inside]
            np.maximum.at(depth, (r[inside], c[inside]), np.clip(width + 0.5 - far, 0, 1))
    return depth


def _pits(chance: np.random.Generator, side: int) -> Floats:
    """Draw one to eight small holes, not quite round, in a loose group."""
    down, right = np.mgrid[:side, :side].astype(np.float64)
    middle, spread = chance.uniform(0.2, 0.8, 2) * side, chance.uniform(0.05, 0.2) * side
    depth = np.zeros((side, side))
    for _ in range(int(chance.integers(1, 9))):
        y, x = np.clip(middle + chance.normal(0, spread, 2), 4, side - 5)
        radius, squeeze = chance.uniform(1.6, 4.5), chance.uniform(0.75, 1.3)
        far = np.hypot((down - y) * squeeze, (right - x) / squeeze)
        depth = np.maximum(depth, np.clip((radius + 0.7 - far) / 1.4, 0, 1))
    return depth


def _inclusion(chance: np.random.Generator, side: int) -> Floats:
    """Draw a ragged dark patch, drawn out along the rolling direction."""
    down, right = np.mgrid[:side, :side].astype(np.float64)
    y, x = chance.uniform(0.2, 0.8, 2) * side
    high, long = chance.uniform(3.5, 9), chance.uniform(10, 34)
    angle = chance.normal(0, 0.12)
    across = (down - y) * np.cos(angle) - (right - x) * np.sin(angle)
    along = (right - x) * np.cos(angle) + (down - y) * np.sin(angle)
    ragged = 0.28 * _noise(chance, side, 2.0, 5.0)
    return np.clip((1.0 - np.hypot(across / high, along / long) + ragged) * 2.2, 0, 1) * (
        np.hypot(across / high, along / long) < 1.6
    )


def _as_bytes(brightness: Floats) -> NDArray[np.uint8]:
    return np.clip(np.rint(brightness), 0, 255).astype(np.uint8)
