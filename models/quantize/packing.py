"""Round expert weights to int8 or int4, and lay them out as ONNX Runtime's operators read them. Numpy only.

Letters: e experts, d width, f hidden numbers of an expert, r numbers that are summed, c columns, g groups of r.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
_Number = TypeVar("_Number", bound=np.generic)
DAMPING = 0.01  # of the mean square of inputs: so much noise is added to them, as the source does


@dataclass(frozen=True)
class Rounded:
    """Weights as whole numbers times scales, symmetric around 0.

    Attributes:
        levels: (e, r, c) int8, from -(2 ** (bits - 1) - 1) to 2 ** (bits - 1) - 1.
        scales: (e, g, c) float32; row i of the levels belongs to group i * g // r.
        bits: 8 or 4.
    """

    levels: NDArray[np.int8]
    scales: Float32s
    bits: int

    def weights(self) -> Float32s:
        """Return the (e, r, c) float32 weights that the levels stand for."""
        repeated = np.repeat(self.scales, self.levels.shape[1] // self.scales.shape[1], axis=1)
        return self.levels.astype(np.float32) * repeated


def rounded(
    weights: Float32s, bits: int = 8, group: int | None = None, inputs: Sequence[Float32s] | None = None
) -> Rounded:
    """Round (e, r, c) weights to levels; the largest of a column's group becomes the highest one.

    Args:
        weights: finite.
        bits: 8 or 4.
        group: rows that share a scale, a divisor of r; None gives each column one scale.
        inputs: per expert (visits, r), what it is multiplied with: then not each weight is nearest to what it was, but
            the products are. None rounds each weight to its nearest level.

    >>> rounded(np.array([[[1.0], [-0.5]]], np.float32)).levels.ravel()
    array([127, -64], dtype=int8)

    Source: Frantar et al. 2022, "GPTQ" (arXiv:2210.17323), equations 2 and 3, in the fixed order of section 3.
    """
    e, r, c = weights.shape
    group = group or r
    if r % group:
        raise ValueError(f"{r} rows cannot be shared out in groups of {group}")
    highest = 2 ** (bits - 1) - 1
    largest = np.abs(weights.reshape(e, r // group, group, c)).max(axis=2)  # (e, g, c)
    scales = np.where(largest > 0, largest / np.float32(highest), np.float32(1)).astype(np.float32)
    each = np.repeat(scales, group, axis=1)  # (e, r, c)
    if inputs is None:
        levels = np.clip(np.rint(weights / each), -highest, highest)
    else:
        levels = _levels(weights, each, inputs, highest)
    return Rounded(levels.astype(np.int8), scales, bits)


def _levels(weights: Float32s, scales: Float32s, inputs: Sequence[Float32s], highest: int) -> Float64s:
    """Round (e, r, c) weights row by row, and move what each row is off by to the rows that are still to come.

    Rows that rise and fall together in the (visits, r) inputs can make up for each other.
    """
    left, levels = weights.astype(np.float64), np.empty(weights.shape)
    r = weights.shape[1]
    together = np.stack([(each.T @ each).astype(np.float64) for each in inputs])  # (e, r, r)
    noise = DAMPING * np.trace(together, axis1=1, axis2=2) / r + 1e-9
    inverse = _inverse(together + noise[:, None, None] * np.eye(r))
    for row in range(r):
        levels[:, row] = np.clip(np.rint(left[:, row] / scales[:, row]), -highest, highest)
        off = left[:, row] - levels[:, row] * scales[:, row]  # (e, c)
        share = inverse[:, row, row + 1 :] / inverse[:, row, row, None]  # (e, rows to come)
        left[:, row + 1 :] -= share[:, :, None] * off[:, None]
        inverse[:, row + 1 :, row + 1 :] -= inverse[:, row + 1 :, row, None] * share[:, None]  # without this row
    return levels


def _inverse(matrices: Float64s) -> Float64s:
    """Invert (e, r, r) symmetric positive matrices by sweeping; LAPACK's threads wait for each other on a busy machine.

    >>> _inverse(np.array([[[2.0, 1.0], [1.0, 1.0]]]))
    array([[[ 1., -1.],
            [-1.,  2.]]])
    """
    swept = matrices.copy()
    for row in range(swept.shape[1]):
        pivot = swept[:, row, row].copy()[:, None]
        across, down = swept[:, row] / pivot, swept[:, :, row].copy()
        swept -= down[:, :, None] * across[:, None]
        swept[:, row], swept[:, :, row] = across, -down / pivot
        swept[:, row, row] = 1 / pivot[:, 0]
    return swept


def swiglu(rows: Float32s, up: Float32s) -> Float32s:
    """Compute silu(rows G) * (rows U) with up = [G | U]: (n, d) by (d, 2f) gives (n, f)."""
    gate, value = np.split(rows @ up, 2, axis=1)
    answer: Float32s = gate / (1 + np.exp(-np.clip(gate, -80, 80))) * value
    return answer


@overload
def interleaved(up: Float32s) -> Float32s: ...
@overload
def interleaved(up: Rounded) -> Rounded: ...
def interleaved(up: Float32s | Rounded) -> Float32s | Rounded:
    """Turn the last axis from gates then values into gate, value, gate, value...: (..., 2f) to (..., 2f)."""
    if isinstance(up, Rounded):
        return Rounded(_interleaved(up.levels), _interleaved(up.scales), up.bits)
    return _interleaved(up)


def packed(given: Rounded) -> tuple[NDArray[np.uint8], Float32s]:
    """Lay out for `com.microsoft.QMoE`: levels (e, c, r * bits / 8), scales (e, c) or, of several groups, (e, c, g).

    Levels are unsigned around 128 or 8; of two 4-bit levels in a byte the first is the lower half.
    """
    levels = (given.levels.astype(np.int16) + (1 << (given.bits - 1))).astype(np.uint8).transpose(0, 2, 1)
    if given.bits == 4:
        levels = levels[..., 0::2] | np.left_shift(levels[..., 1::2], 4)
    scales = given.scales.transpose(0, 2, 1)
    return np.ascontiguousarray(levels), np.ascontiguousarray(scales[..., 0] if scales.shape[-1] == 1 else scales)


def _interleaved(up: NDArray[_Number]) -> NDArray[_Number]:
    pairs = up.reshape(*up.shape[:-1], 2, up.shape[-1] // 2)  # (..., 2, f)
    return np.ascontiguousarray(np.swapaxes(pairs, -1, -2)).reshape(up.shape)
