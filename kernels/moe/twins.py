"""The same in plain torch, slow and obvious: what each kernel is tested against. Letters as in `sparse_experts`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu


def route(
    rows: Tensor, weight: Tensor, bias: Tensor, chosen: int, allowed: Tensor | None = None,
    present: Tensor | None = None,
) -> tuple[Tensor, Tensor, list[int]]:  # fmt: skip
    """Give (n, k) fp32 weights, (n, k) int32 experts, and the flags: a row not finite, a row with too few experts."""
    if present is not None:
        weights, ids, flags = route(rows[present], weight, bias, chosen, _rows_of(allowed, present))
        places = present.nonzero().squeeze(1)
        nobody = torch.full((len(rows), chosen), weight.shape[1], dtype=torch.int32, device=rows.device)
        nothing = torch.zeros(nobody.shape, device=rows.device)
        return nothing.index_copy(0, places, weights), nobody.index_copy(0, places, ids), flags
    scores = torch.sigmoid(rows.float() @ weight.float())  # (n, e)
    ranked = scores + bias.float()
    broken = ~rows.isfinite().all(1) | ranked.isnan().any(1)  # (n,)
    if allowed is not None:
        ranked = ranked.masked_fill(~allowed, -torch.inf)
    too_few = ~broken & ((ranked > -torch.inf).sum(1) < chosen)
    ids = ranked.sort(dim=1, descending=True, stable=True)[1][:, :chosen]  # stable: the lowest index among equals
    picked = scores.gather(1, ids)
    broken |= ~too_few & ~(picked.sum(1) > 0)
    refused = (broken | too_few).unsqueeze(1)
    ids = torch.where(refused, torch.arange(chosen, device=rows.device), ids)
    weights = torch.where(refused, torch.nan, picked / picked.sum(1, keepdim=True))
    return weights, ids.int(), [int(broken.any()), int(too_few.any())]


def align(ids: Tensor, experts: int, rows: int) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """Give the visits sorted by expert, those of padding last, and the blocks as (expert, first, size)."""
    order = ids.flatten().sort(stable=True)[1].int()  # (n * k,)
    blocks, first = [], 0
    for expert, visits in enumerate(torch.bincount(ids.flatten(), minlength=experts).tolist()[:experts]):
        blocks += [(expert, first + done, min(rows, visits - done)) for done in range(0, visits, rows)]
        first += visits
    return order, blocks


def gather_up(rows: Tensor, up: Tensor, ids: Tensor) -> Tensor:
    """Give (n * k, f) hidden numbers, the visits sorted by expert."""
    order, _ = align(ids, up.shape[0], 1)
    return torch.cat([shared_up(rows[visit // ids.shape[1]][None], up[ids.flatten()[visit]]) for visit in order])


def shared_up(rows: Tensor, up: Tensor) -> Tensor:
    """Give (n, g) hidden numbers, kept in the type of the rows."""
    gate, value = (rows.float() @ up.float()).chunk(2, dim=1)
    return (silu(gate) * value).to(rows.dtype)


def weighted_down(hidden: Tensor, down: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
    """Give (n * k, d) fp32 weighted answers, by row and slot."""
    order, _ = align(ids, down.shape[0], 1)
    answers = torch.empty(hidden.shape[0], down.shape[2], device=hidden.device)
    for place, visit in enumerate(order):
        answers[visit] = weights.flatten()[visit] * (hidden[place].float() @ down[ids.flatten()[visit]].float())
    return answers


def combine(answers: Tensor, weights: Tensor, hidden: Tensor, down: Tensor) -> Tensor:
    """Give (n, d): each row's k answers, where its weight is not 0, and the shared expert's."""
    routed = torch.where(weights.unsqueeze(2) == 0, 0, answers.view(*weights.shape, -1)).sum(1)
    return (routed + hidden.float() @ down.float()).to(hidden.dtype)


def sparse_experts(
    rows: Tensor, router_weight: Tensor, bias: Tensor, up: Tensor, down: Tensor, shared_up: Tensor, shared_down: Tensor,
    chosen: int, allowed: Tensor | None = None, present: Tensor | None = None, per_choice: int = 1,
) -> Tensor:  # fmt: skip
    """Give (n, d) answers in fp64, rounded at the end: what a kernel of any rounding is measured against."""
    here = torch.ones(len(rows), dtype=torch.bool, device=rows.device) if present is None else present
    groups = zip(rows.split(per_choice), here.split(per_choice), strict=True)
    deciding = rows if per_choice == 1 else torch.stack([x[at].float().mean(0) for x, at in groups])
    any_here = here.view(-1, per_choice).any(1)
    weights, ids, _ = route(deciding, router_weight, bias, chosen, allowed, any_here)
    weights, ids = (of_choice.repeat_interleave(per_choice, dim=0) for of_choice in (weights, ids))
    x, out = rows.double(), _expert(rows.double(), shared_up, shared_down)
    for expert in range(up.shape[0]):
        mine = (ids == expert) & here.unsqueeze(1)  # (n, k)
        share = torch.where(mine, weights.double(), 0).sum(1, keepdim=True)  # (n, 1)
        out = out + share * _expert(x, up[expert], down[expert])
    return out.to(rows.dtype)


def _rows_of(allowed: Tensor | None, present: Tensor) -> Tensor | None:
    return allowed if allowed is None or allowed.dim() == 1 else allowed[present]


def _expert(rows: Tensor, up: Tensor, down: Tensor) -> Tensor:
    gate, value = (rows @ up.double()).chunk(2, dim=1)
    return (silu(gate) * value) @ down.double()
