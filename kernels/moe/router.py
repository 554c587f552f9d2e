"""One kernel that chooses experts: product, sigmoid, bias, mask, top k and normalised weights of a block of rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.moe.launching import OPTIONS, route_tiles

NOT_FINITE, TOO_FEW = 0, 1  # places in the flags


@triton.jit
def scores_of(
    rows,
    weight,
    t,
    counted,
    D: tl.constexpr,
    E: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Compute sigmoid(rows W) in fp32: (ROWS, COLUMNS), and 1 for the rows that are not finite."""
    e = tl.arange(0, COLUMNS)
    first = t.to(tl.int64) * D
    logits = tl.zeros((ROWS, COLUMNS), tl.float32)
    broken = tl.zeros((ROWS,), tl.int32)
    for start in range(0, D, DEPTH):
        k = start + tl.arange(0, DEPTH)
        inside = counted[:, None] & (k < D)[None, :]
        x = tl.load(rows + first[:, None] + k[None, :], mask=inside, other=0.0).to(tl.float32)
        finite = tl.abs(x) < float("inf")  # false for NaN too
        broken = tl.maximum(broken, 1 - tl.min(finite.to(tl.int32), axis=1))
        w = tl.load(weight + k[:, None] * E + e[None, :], mask=(k < D)[:, None] & (e < E)[None, :], other=0.0)
        # never TF32: a flip of the choice is an error of any size
        logits = tl.dot(tl.where(finite, x, 0.0), w.to(tl.float32), logits, input_precision="ieee")
    return 1.0 / (1.0 + tl.exp(-logits)), broken


@triton.jit
def best_of(ranked, scores, K: tl.constexpr, K_PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Take the K largest of each row: their scores and indices (ROWS, K_PADDED), and 1 where there were fewer."""
    e, slot = tl.arange(0, COLUMNS), tl.arange(0, K_PADDED)
    picked = tl.zeros((ROWS, K_PADDED), tl.float32)
    chosen = tl.zeros((ROWS, K_PADDED), tl.int32)
    too_few = tl.zeros((ROWS,), tl.int32)
    for j in tl.static_range(K):
        too_few = tl.maximum(too_few, (tl.max(ranked, axis=1) == float("-inf")).to(tl.int32))
        best = tl.argmax(ranked, axis=1)  # the lowest index among equals
        hit = e[None, :] == best[:, None]
        score = tl.sum(tl.where(hit, scores, 0.0), axis=1)
        ranked = tl.where(hit, float("-inf"), ranked)
        picked += tl.where(slot[None, :] == j, score[:, None], 0.0)
        chosen += tl.where(slot[None, :] == j, best[:, None].to(tl.int32), 0)
    return picked, chosen, too_few


@triton.jit(do_not_specialize=["n", "allowed_stride"])
def route_kernel(
    rows,  # (n, D)
    weight,  # (D, E)
    bias,  # (E,)
    allowed,  # (E,) or (n, E) bytes, or None
    present,  # (n,) bytes, or None
    weights,  # out: (n, K) fp32
    ids,  # out: (n, K) int32
    counts,  # out: (parts, E) int32, visits of each expert from each block of rows
    flags,  # out: (2,) int32, raised only
    n,
    allowed_stride,  # 0 for one mask, E for one per row
    D: tl.constexpr,
    E: tl.constexpr,
    K: tl.constexpr,
    K_PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Rank the experts of a block of rows, and count their visits for the alignment."""
    part = tl.program_id(0)
    t = part * ROWS + tl.arange(0, ROWS)
    e, slot = tl.arange(0, COLUMNS), tl.arange(0, K_PADDED)
    counted = t < n
    if present is not None:
        counted = counted & (tl.load(present + t, mask=counted, other=0) != 0)
    scores, broken = scores_of(rows, weight, t, counted, D, E, ROWS, COLUMNS, DEPTH)
    ranked = scores + tl.load(bias + e, mask=e < E, other=0.0).to(tl.float32)[None, :]
    broken = tl.maximum(broken, tl.max((ranked != ranked).to(tl.int32), axis=1))
    open_to = counted[:, None] & (e < E)[None, :]
    if allowed is not None:
        mask = tl.load(allowed + t[:, None].to(tl.int64) * allowed_stride + e[None, :], mask=open_to, other=0)
        open_to = open_to & (mask != 0)
    ranked = tl.where(open_to & (broken == 0)[:, None], ranked, float("-inf"))  # NaN would win or lose at random
    picked, chosen, too_few = best_of(ranked, scores, K, K_PADDED, ROWS, COLUMNS)
    total = tl.sum(picked, axis=1)
    too_few = tl.where(broken > 0, 0, too_few)
    broken = tl.maximum(broken, tl.where(too_few > 0, 0, 1 - (total > 0.0).to(tl.int32)))  # all scores underflowed
    tl.store(flags, 1, mask=tl.max(tl.where(counted, broken, 0)) > 0)  # every writer writes 1
    tl.store(flags + 1, 1, mask=tl.max(tl.where(counted, too_few, 0)) > 0)
    # a refused row still goes to k different experts, so that alignment holds, but answers NaN: never a silent number
    refused = (tl.maximum(broken, too_few) > 0)[:, None]
    chosen = tl.where(counted[:, None], tl.where(refused, slot[None, :], chosen), E)
    shares = tl.where(refused, float("nan"), picked / tl.where(total > 0.0, total, 1.0)[:, None])
    place = t[:, None].to(tl.int64) * K + slot[None, :]
    inside = (t < n)[:, None] & (slot < K)[None, :]
    tl.store(weights + place, tl.where(counted[:, None], shares, 0.0), mask=inside)
    tl.store(ids + place, chosen, mask=inside)
    visits = tl.zeros((COLUMNS,), tl.int32)
    for j in tl.static_range(K):
        mine = tl.sum(tl.where(slot[None, :] == j, chosen, 0), axis=1)
        visits += tl.sum((mine[:, None] == e[None, :]).to(tl.int32), axis=0)
    tl.store(counts + part * E + e, visits, mask=e < E)


def route(
    rows: Tensor, weight: Tensor, bias: Tensor, chosen: int, allowed: Tensor | None, present: Tensor | None,
    flags: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Choose the k best experts of each row, as `models.moe.router.Router` does.

    Args:
        rows: (n, d) fp16, bf16 or fp32, n above zero.
        weight: (d, e).
        bias: (e,), added for the choice and never in a weight.
        chosen: k.
        allowed: (e,) or (n, e) bool, experts a row may visit; None for all.
        present: (n,) bool, false for padding; None if there is none.
        flags: (2,) int32; set to 1 where a row is not finite, or has fewer than k experts allowed. Never reset.

    Returns:
        (n, k) fp32 weights that sum to 1, NaN for a refused row, 0 for padding; (n, k) int32 experts, all different in
        a row, e for padding; (parts, e) int32 visits from each block of `route_tiles(e).rows` rows, for the alignment.
    """
    (n, d), e = rows.shape, weight.shape[1]
    tiles = route_tiles(e)
    parts = triton.cdiv(n, tiles.rows)
    weights = torch.empty((n, chosen), dtype=torch.float32, device=rows.device)
    ids = torch.empty((n, chosen), dtype=torch.int32, device=rows.device)
    counts = torch.empty((parts, e), dtype=torch.int32, device=rows.device)
    route_kernel[(parts,)](
        rows, weight, bias, _bytes(allowed), _bytes(present), weights, ids, counts, flags,
        n, 0 if allowed is None or allowed.dim() == 1 else e,
        D=d, E=e, K=chosen, K_PADDED=triton.next_power_of_2(chosen),
        ROWS=tiles.rows, COLUMNS=tiles.columns, DEPTH=tiles.depth, **OPTIONS,
    )  # fmt: skip
    return weights, ids, counts


def _bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.view(torch.int8)
