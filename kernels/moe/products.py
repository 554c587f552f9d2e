"""The grouped products: rows gathered by expert through SwiGLU, back down with the routing weight, and their sum.

The shared expert, which every row visits, takes the same kernels with DENSE: its visits are the rows as they stand.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.moe.alignment import Alignment
from kernels.moe.launching import INTERPRETED, OPTIONS, Tiles, precision, product_tiles


@triton.jit
def tile_of(pointers, inside, WHOLE: tl.constexpr, WIDEN: tl.constexpr):
    """Load a tile, without a mask where it is known to fit."""
    x = tl.load(pointers) if WHOLE else tl.load(pointers, mask=inside, other=0.0)
    if WIDEN:  # the interpreter multiplies the raw bits of bf16
        x = x.to(tl.float32)
    return x


@triton.jit
def product_of(
    x_at,  # (ROWS, 1) where each row begins
    matrix,  # (F, D)
    c,  # (COLUMNS,) of the matrix
    F: tl.constexpr,
    D: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Multiply a tile of rows of F numbers by some columns of a matrix: (ROWS, COLUMNS) fp32."""
    k = tl.arange(0, DEPTH)
    x_at += k[None, :]
    w_at = matrix + k[:, None] * D + c[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    DEEP: tl.constexpr = F % DEPTH == 0
    WHOLE: tl.constexpr = DEEP and D % COLUMNS == 0
    for start in range(0, F, DEPTH):
        inside = (start + k < F)[:, None] & (c < D)[None, :]
        x = tile_of(x_at + start, (start + k < F)[None, :], DEEP, WIDEN)
        total = tl.dot(x, tile_of(w_at + start * D, inside, WHOLE, WIDEN), total, input_precision=PRECISION)
    return total


@triton.jit(do_not_specialize=["n"])
def up_kernel(
    rows,  # (n, D)
    up,  # (e, D, 2F), or (D, 2F) if DENSE
    hidden,  # out: (visits, F), in the order of `order`
    order,  # (visits,), or None if DENSE
    expert,  # (blocks,), or None if DENSE
    first,  # (blocks,), or None if DENSE
    size,  # (blocks,), or None if DENSE
    n,
    D: tl.constexpr,
    F: tl.constexpr,
    K: tl.constexpr,
    DENSE: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Multiply one tile of rows by gate and value, so that a row is read once for both; then silu(gate) * value."""
    block = tl.program_id(0)
    m = tl.arange(0, ROWS)
    if DENSE:
        spot = block * ROWS + m
        live = spot < n
        source = tl.where(live, spot, 0)  # what is beyond reads row 0 and is not written
        matrix = up
    else:
        count = tl.load(size + block)
        if count == 0:
            return
        spot = tl.load(first + block) + m
        live = m < count
        source = tl.load(order + spot, mask=live, other=0) // K
        matrix = up + tl.load(expert + block).to(tl.int64) * (D * 2 * F)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    x_at = rows + source[:, None].to(tl.int64) * D + k[None, :]
    w_at = matrix + k[:, None] * (2 * F) + c[None, :]
    gate = tl.zeros((ROWS, COLUMNS), tl.float32)
    value = tl.zeros((ROWS, COLUMNS), tl.float32)
    DEEP: tl.constexpr = D % DEPTH == 0
    WHOLE: tl.constexpr = DEEP and F % COLUMNS == 0
    for start in range(0, D, DEPTH):
        inside = (start + k < D)[:, None] & (c < F)[None, :]
        x = tile_of(x_at + start, (start + k < D)[None, :], DEEP, WIDEN)
        gate = tl.dot(x, tile_of(w_at + start * (2 * F), inside, WHOLE, WIDEN), gate, input_precision=PRECISION)
        value = tl.dot(x, tile_of(w_at + start * (2 * F) + F, inside, WHOLE, WIDEN), value, input_precision=PRECISION)
    answer = gate / (1.0 + tl.exp(-gate)) * value
    at = hidden + spot[:, None].to(tl.int64) * F + c[None, :]
    tl.store(at, answer.to(hidden.dtype.element_ty), mask=live[:, None] & (c < F)[None, :])


@triton.jit
def down_kernel(
    hidden,  # (visits, F), in the order of `order`
    down,  # (e, F, D)
    weights,  # (visits,) fp32, by visit
    answers,  # out: (visits, D) fp32, by visit
    order,  # (visits,)
    expert,  # (blocks,)
    first,  # (blocks,)
    size,  # (blocks,)
    D: tl.constexpr,
    F: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Multiply hidden numbers back to the width, times the routing weight, into the row of the visit."""
    block = tl.program_id(0)
    count = tl.load(size + block)
    if count == 0:
        return
    m = tl.arange(0, ROWS)
    live = m < count
    spot = tl.load(first + block) + tl.where(live, m, 0)
    visit = tl.load(order + spot)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    x_at = hidden + spot[:, None].to(tl.int64) * F
    matrix = down + tl.load(expert + block).to(tl.int64) * (F * D)
    total = product_of(x_at, matrix, c, F, D, PRECISION, WIDEN, ROWS, COLUMNS, DEPTH)
    total *= tl.load(weights + visit)[:, None]
    at = answers + visit[:, None].to(tl.int64) * D + c[None, :]
    tl.store(at, total, mask=live[:, None] & (c < D)[None, :])


@triton.jit(do_not_specialize=["n"])
def combine_kernel(
    answers,  # (n * K, D) fp32, weighted
    weights,  # (n * K,) fp32
    hidden,  # (n, G) of the shared expert
    down,  # (G, D) of the shared expert
    out,  # out: (n, D)
    n,
    D: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Compute the shared expert's answer and add each row's k answers to it."""
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = t < n
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    x_at = hidden + tl.where(live, t, 0)[:, None].to(tl.int64) * G
    shared = product_of(x_at, down, c, G, D, PRECISION, WIDEN, ROWS, COLUMNS, DEPTH)
    inside = live[:, None] & (c < D)[None, :]
    routed = tl.zeros((ROWS, COLUMNS), tl.float32)
    for j in tl.static_range(K):  # in the order of choice, always: no atomics, the same bits on every run
        visit = t.to(tl.int64) * K + j
        visited = tl.load(weights + visit, mask=live, other=0.0) != 0.0  # padding has no answer to read
        routed += tl.load(answers + visit[:, None] * D + c[None, :], mask=inside & visited[:, None], other=0.0)
    at = out + t[:, None].to(tl.int64) * D + c[None, :]
    tl.store(at, (routed + shared).to(out.dtype.element_ty), mask=inside)


def gather_up(rows: Tensor, up: Tensor, aligned: Alignment, chosen: int, tiles: Tiles) -> Tensor:
    """Compute silu(x G) * (x U) for each visit: (n, d) by (e, d, 2f) gives (n * k, f), in the order of `aligned`."""
    (n, d), f = rows.shape, up.shape[2] // 2
    hidden = torch.empty((n * chosen, f), dtype=rows.dtype, device=rows.device)
    grid = (aligned.expert.shape[0], triton.cdiv(f, tiles.columns))
    up_kernel[grid](
        rows, up, hidden, aligned.order, aligned.expert, aligned.first, aligned.size, n,
        D=d, F=f, K=chosen, DENSE=False, **_dots(rows.dtype, tiles),
    )  # fmt: skip
    return hidden


def shared_up(rows: Tensor, up: Tensor) -> Tensor:
    """Compute silu(x G) * (x U) of the shared expert: (n, d) by (d, 2g) gives (n, g)."""
    (n, d), g = rows.shape, up.shape[1] // 2
    tiles = product_tiles(n, 1, d, g, rows.dtype)
    hidden = torch.empty((n, g), dtype=rows.dtype, device=rows.device)
    up_kernel[(triton.cdiv(n, tiles.rows), triton.cdiv(g, tiles.columns))](
        rows, up, hidden, None, None, None, None, n, D=d, F=g, K=1, DENSE=True, **_dots(rows.dtype, tiles)
    )
    return hidden


def weighted_down(hidden: Tensor, down: Tensor, weights: Tensor, aligned: Alignment, tiles: Tiles) -> Tensor:
    """Compute weight * (h D) for each visit: (n * k, f) by (e, f, d) gives (n * k, d) fp32, by row and slot."""
    f, d = down.shape[1:]
    answers = torch.empty((hidden.shape[0], d), dtype=torch.float32, device=hidden.device)
    grid = (aligned.expert.shape[0], triton.cdiv(d, tiles.columns))
    down_kernel[grid](
        hidden, down, weights, answers, aligned.order, aligned.expert, aligned.first, aligned.size,
        D=d, F=f, **_dots(hidden.dtype, tiles),
    )  # fmt: skip
    return answers


def combine(answers: Tensor, weights: Tensor, hidden: Tensor, down: Tensor) -> Tensor:
    """Add up each row's k answers where its weight is not 0 and the shared expert's: (n, g) by (g, d) gives (n, d)."""
    (n, g), d = hidden.shape, down.shape[1]
    tiles = product_tiles(n, 1, g, d, hidden.dtype)
    out = torch.empty((n, d), dtype=hidden.dtype, device=hidden.device)
    combine_kernel[(triton.cdiv(n, tiles.rows), triton.cdiv(d, tiles.columns))](
        answers, weights, hidden, down, out, n, D=d, G=g, K=weights.shape[1], **_dots(hidden.dtype, tiles)
    )
    return out


def _dots(dtype: torch.dtype, tiles: Tiles) -> dict:
    widen = INTERPRETED and dtype == torch.bfloat16
    sizes = {"ROWS": tiles.rows, "COLUMNS": tiles.columns, "DEPTH": tiles.depth}
    return {"PRECISION": precision(dtype), "WIDEN": widen, **sizes, **OPTIONS}
