"""How the kernels are started: tile sizes, and options that must not depend on a default of Triton's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

INTERPRETED = bool(triton.knobs.runtime.interpret)  # read when a kernel is decorated: changing it later has no effect
SMALL_ROWS = 4  # up to here no alignment: a visit is a vector times a matrix
# Triton 3.9 fuses a * b + c by default and 3.10 will not: said here, the numbers stay what the tests saw
OPTIONS = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}


@dataclass(frozen=True)
class Tiles:
    """Rows, columns and depth of one program's piece of a product.

    Attributes:
        rows: of tokens; the padding of the alignment.
        columns: of the result.
        depth: numbers multiplied at a time.
    """

    rows: int
    columns: int
    depth: int


def route_tiles(experts: int) -> Tiles:
    """Choose the tile of the router: all experts side by side, because a row is ranked as a whole."""
    return Tiles(rows=32, columns=max(16, triton.next_power_of_2(experts)), depth=32)


def product_tiles(visits: int, experts: int, depth: int, columns: int, dtype: torch.dtype) -> Tiles:
    """Choose the tile of a grouped product.

    Rows: 16 while an expert has fewer than 64 visits on average (padding would be most of the work), else 64, which
    Hopper's wgmma needs. Not 128: with two accumulators that spills on sm_80.

    Args:
        visits: rows times experts chosen for each.
        experts: among which they are shared.
        depth: numbers of a row.
        columns: numbers of an answer.
        dtype: of rows and weights.
    """
    rows = 16 if visits < 64 * experts else 64
    side = 32 if dtype == torch.float32 else 64  # four bytes a number: the same shared memory
    return Tiles(rows, _fitting(columns, side), _fitting(depth, side))


def _fitting(size: int, most: int) -> int:
    """Return the power of two, 16 to `most`, that covers `size` best; tensor cores take no less than 16."""
    return min(most, max(16, triton.next_power_of_2(size)))


def blocks_max(visits: int, experts: int, rows: int) -> int:
    """Bound the blocks of `rows` visits by what the host knows: no wait for the device, so graphs can be captured.

    Each expert's last block is short of `rows` by at most rows - 1, and a block has at least one visit.

    >>> blocks_max(visits=100, experts=4, rows=16)
    10
    """
    return min(visits, (visits + experts * (rows - 1)) // rows)


def precision(dtype: torch.dtype) -> str:
    """Return how tl.dot multiplies: fp32 as three TF32 products on tensor cores (error 1e-6), never one (1e-3)."""
    return "tf32x3" if dtype == torch.float32 else "ieee"
