"""A few rows at a time: each visit is a vector times a matrix, read once, with no alignment before it.

Sorting costs more than it saves when hardly two rows share an expert, and a tile of 16 rows would be mostly padding.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.moe.launching import OPTIONS

_COLUMNS, _DEPTH = 32, 64


@triton.jit
def gated(x_at, matrix, c, D: tl.constexpr, F: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):
    """silu(x G) * (x U) of one row, at the columns c."""
    k = tl.arange(0, DEPTH)
    gate = tl.zeros((DEPTH, COLUMNS), tl.float32)
    value = tl.zeros((DEPTH, COLUMNS), tl.float32)
    for start in range(0, D, DEPTH):
        inside = (start + k < D)[:, None] & (c < F)[None, :]
        x = tl.load(x_at + start + k, mask=start + k < D, other=0.0).to(tl.float32)[:, None]
        w_at = matrix + (start + k)[:, None] * (2 * F) + c[None, :]
        gate += x * tl.load(w_at, mask=inside, other=0.0).to(tl.float32)
        value += x * tl.load(w_at + F, mask=inside, other=0.0).to(tl.float32)
    g = tl.sum(gate, axis=0)
    return g / (1.0 + tl.exp(-g)) * tl.sum(value, axis=0)


@triton.jit
def lowered(x_at, matrix, c, F: tl.constexpr, D: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):
    """h D of one row, at the columns c."""
    k = tl.arange(0, DEPTH)
    total = tl.zeros((DEPTH, COLUMNS), tl.float32)
    for start in range(0, F, DEPTH):
        inside = (start + k < F)[:, None] & (c < D)[None, :]
        x = tl.load(x_at + start + k, mask=start + k < F, other=0.0)[:, None]
        w = tl.load(matrix + (start + k)[:, None] * D + c[None, :], mask=inside, other=0.0)
        total += x * w.to(tl.float32)
    return tl.sum(total, axis=0)


@triton.jit
def matrix_of(matrices, at, E: tl.constexpr, SIZE: tl.constexpr):
    """Find the matrix of the expert whose number stands there; E stands for padding, whose weight is 0."""
    return matrices + tl.minimum(tl.load(at), E - 1).to(tl.int64) * SIZE


@triton.jit
def small_up_kernel(
    rows,  # (n, D)
    up,  # (e, D, 2F)
    shared_up,  # (D, 2G)
    ids,  # (n, K)
    hidden,  # out: (n, K * F + G) fp32: the row's experts in the order of choice, then the shared one
    D: tl.constexpr,
    F: tl.constexpr,
    G: tl.constexpr,
    E: tl.constexpr,
    K: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Compute the hidden numbers of one row in one of its experts; the last is the shared one."""
    t, slot = tl.program_id(0), tl.program_id(1)
    c = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    x_at = rows + t * D
    at = hidden + t * (K * F + G) + slot * F + c
    if slot < K:
        matrix = matrix_of(up, ids + t * K + slot, E, D * 2 * F)
        tl.store(at, gated(x_at, matrix, c, D, F, COLUMNS, DEPTH), mask=c < F)
    else:
        tl.store(at, gated(x_at, shared_up, c, D, G, COLUMNS, DEPTH), mask=c < G)


@triton.jit
def small_down_kernel(
    hidden,  # (n, K * F + G) fp32
    down,  # (e, F, D)
    shared_down,  # (G, D)
    ids,  # (n, K)
    weights,  # (n, K) fp32
    out,  # out: (n, D)
    D: tl.constexpr,
    F: tl.constexpr,
    G: tl.constexpr,
    E: tl.constexpr,
    K: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Add up the weighted answers of one row, in the order of choice, the shared expert last."""
    t = tl.program_id(0)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    x_at = hidden + t * (K * F + G)
    total = tl.zeros((COLUMNS,), tl.float32)
    for j in tl.static_range(K):
        matrix = matrix_of(down, ids + t * K + j, E, F * D)
        total += tl.load(weights + t * K + j) * lowered(x_at + j * F, matrix, c, F, D, COLUMNS, DEPTH)
    total += lowered(x_at + K * F, shared_down, c, G, D, COLUMNS, DEPTH)
    tl.store(out + t * D + c, total.to(out.dtype.element_ty), mask=c < D)


def small(
    rows: Tensor, ids: Tensor, weights: Tensor, up: Tensor, down: Tensor, shared_up: Tensor, shared_down: Tensor
) -> Tensor:
    """Answer a few rows (n above zero): two kernels after the router. Shapes as in `sparse_experts`."""
    (n, d), k, f, g = rows.shape, ids.shape[1], down.shape[1], shared_down.shape[0]
    hidden = torch.empty((n, k * f + g), dtype=torch.float32, device=rows.device)
    out = torch.empty_like(rows)
    sizes = {"D": d, "F": f, "G": g, "E": up.shape[0], "K": k, "COLUMNS": _COLUMNS, "DEPTH": _DEPTH, **OPTIONS}
    small_up_kernel[(n, k + 1, triton.cdiv(max(f, g), _COLUMNS))](rows, up, shared_up, ids, hidden, **sizes)
    small_down_kernel[(n, triton.cdiv(d, _COLUMNS))](hidden, down, shared_down, ids, weights, out, **sizes)
    return out
