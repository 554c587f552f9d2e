"""Visits sorted by expert, and blocks of them that a grouped product can take: a stable counting sort in two kernels.

Nothing is known on the host, so nothing waits for the device: the grid has as many blocks as there could be, and those
beyond the last have no rows. Only indices are padded, never rows (ScatterMoE, arXiv:2403.08245, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.moe.launching import OPTIONS, blocks_max, route_tiles

_PARTS, _BLOCKS = 64, 128  # of the tables that one program of `plan_kernel` looks at together


@dataclass(frozen=True)
class Alignment:
    """Which visits each block of a grouped product computes.

    A visit is a pair of a row and one of its experts, numbered row * k + slot.

    Attributes:
        order: (n * k,) int32 visits, those of expert 0 first, then in the order of rows; undefined after the last.
        expert: (blocks,) int32 expert of the block.
        first: (blocks,) int32 place in `order` of its first visit.
        size: (blocks,) int32 number of its visits; 0 for the blocks that are not needed.
    """

    order: Tensor
    expert: Tensor
    first: Tensor
    size: Tensor


@triton.jit(do_not_specialize=["parts", "blocks"])
def plan_kernel(
    counts,  # (parts, E) visits of each expert from each block of the router
    bases,  # out: (parts, E) place of the first of them in the order
    expert,  # out: (blocks,)
    first,  # out: (blocks,)
    size,  # out: (blocks,)
    parts,
    blocks,
    E: tl.constexpr,
    E_PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Add up the counts to places, and share out blocks among experts; every program counts, the first one writes."""
    e = tl.arange(0, E_PADDED)
    total = tl.zeros((E_PADDED,), tl.int32)
    for start in range(0, parts, PARTS):
        p = start + tl.arange(0, PARTS)
        inside = (p < parts)[:, None] & (e < E)[None, :]
        total += tl.sum(tl.load(counts + p[:, None] * E + e[None, :], mask=inside, other=0), axis=0)
    begin = tl.cumsum(total, axis=0) - total
    if tl.program_id(0) == 0:
        running = begin
        for start in range(0, parts, PARTS):
            p = start + tl.arange(0, PARTS)
            inside = (p < parts)[:, None] & (e < E)[None, :]
            here = tl.load(counts + p[:, None] * E + e[None, :], mask=inside, other=0)
            before = tl.cumsum(here, axis=0) - here
            tl.store(bases + p[:, None] * E + e[None, :], running[None, :] + before, mask=inside)
            running += tl.sum(here, axis=0)
    needed = (total + (ROWS - 1)) // ROWS
    ends = tl.cumsum(needed, axis=0)
    b = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    owner = tl.sum((b[:, None] >= ends[None, :]).to(tl.int32), axis=1)  # E_PADDED beyond the last block
    hit = owner[:, None] == e[None, :]
    done = ROWS * (
        b - tl.sum(tl.where(hit, (ends - needed)[None, :], 0), axis=1)
    )  # visits in the expert's blocks before
    left = tl.sum(tl.where(hit, total[None, :], 0), axis=1) - done
    used = owner < E_PADDED
    tl.store(expert + b, tl.where(used, owner, 0), mask=b < blocks)
    tl.store(first + b, tl.where(used, done + tl.sum(tl.where(hit, begin[None, :], 0), axis=1), 0), mask=b < blocks)
    tl.store(size + b, tl.where(used, tl.minimum(left, ROWS), 0), mask=b < blocks)


@triton.jit
def slot_of(ids, t, j, live, e, K: tl.constexpr):
    """Read whom rows visit in slot j: (ROWS,) experts, -1 behind the end; and (ROWS, E_PADDED) if it is expert e."""
    mine = tl.load(ids + t.to(tl.int64) * K + j, mask=live, other=-1)
    return mine, mine[:, None] == e[None, :]


@triton.jit(do_not_specialize=["n"])
def order_kernel(
    ids,  # (n, K)
    bases,  # (parts, E)
    order,  # out: (n * K,)
    n,
    E: tl.constexpr,
    E_PADDED: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Write each visit to its place: where its expert begins, plus those of earlier rows."""
    part = tl.program_id(0)
    t = part * ROWS + tl.arange(0, ROWS)
    e = tl.arange(0, E_PADDED)
    live = t < n
    visits = tl.zeros((ROWS, E_PADDED), tl.int32)  # 0 or 1: the experts of a row are all different
    for j in tl.static_range(K):
        _, hit = slot_of(ids, t, j, live, e, K)
        visits += hit.to(tl.int32)
    base = tl.load(bases + part * E + e, mask=e < E, other=0)
    place = base[None, :] + tl.cumsum(visits, axis=0) - visits
    for j in tl.static_range(K):
        mine, hit = slot_of(ids, t, j, live, e, K)
        spot = tl.sum(tl.where(hit, place, 0), axis=1)
        tl.store(order + spot, t * K + j, mask=live & (mine < E))  # E: padding


@triton.jit(do_not_specialize=["n"])
def count_kernel(
    ids,  # (n, K)
    counts,  # out: (parts, E)
    n,
    E: tl.constexpr,
    E_PADDED: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Count the visits of each expert from a block of rows, as the router does for the rows it sees."""
    part = tl.program_id(0)
    t = part * ROWS + tl.arange(0, ROWS)
    e = tl.arange(0, E_PADDED)
    visits = tl.zeros((E_PADDED,), tl.int32)
    for j in tl.static_range(K):
        _, hit = slot_of(ids, t, j, t < n, e, K)
        visits += tl.sum(hit.to(tl.int32), axis=0)
    tl.store(counts + part * E + e, visits, mask=e < E)


def count(ids: Tensor, experts: int) -> Tensor:
    """Count the visits in (n, k) int32 experts: (parts, e), as `align` takes them."""
    (n, k), rows = ids.shape, route_tiles(experts).rows
    counts = torch.empty((triton.cdiv(n, rows), experts), dtype=torch.int32, device=ids.device)
    padded = max(2, triton.next_power_of_2(experts))
    count_kernel[(counts.shape[0],)](ids, counts, n, E=experts, E_PADDED=padded, K=k, ROWS=rows, **OPTIONS)
    return counts


def align(ids: Tensor, counts: Tensor, rows: int) -> Alignment:
    """Sort visits by expert, stably, and cut them into blocks of at most `rows` visits of one expert.

    Args:
        ids: (n, k) int32 experts, all different in a row, e for a row that visits none; n above zero.
        counts: (parts, e) int32, as the router gives them.
        rows: visits in a full block.
    """
    (n, k), (parts, e) = ids.shape, counts.shape
    blocks, padded = blocks_max(n * k, e, rows), max(2, triton.next_power_of_2(e))
    bases = torch.empty_like(counts)
    order = torch.empty(n * k, dtype=torch.int32, device=ids.device)
    expert, first, size = torch.empty((3, blocks), dtype=torch.int32, device=ids.device).unbind(0)
    plan_kernel[(triton.cdiv(blocks, _BLOCKS),)](
        counts, bases, expert, first, size, parts, blocks,
        E=e, E_PADDED=padded, ROWS=rows, PARTS=_PARTS, BLOCKS=_BLOCKS, **OPTIONS,
    )  # fmt: skip
    order_kernel[(parts,)](ids, bases, order, n, E=e, E_PADDED=padded, K=k, ROWS=route_tiles(e).rows, **OPTIONS)
    return Alignment(order, expert, first, size)
