"""The one way in: checks on the host, then the kernels in their order."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from kernels.moe import products
from kernels.moe.alignment import align, count
from kernels.moe.launching import INTERPRETED, SMALL_ROWS, product_tiles
from kernels.moe.router import NOT_FINITE, TOO_FEW, route
from kernels.moe.small import small

_TYPES = (torch.float16, torch.bfloat16, torch.float32)


def sparse_experts(
    rows: Tensor, router_weight: Tensor, bias: Tensor, up: Tensor, down: Tensor, shared_up: Tensor, shared_down: Tensor,
    chosen: int, allowed: Tensor | None = None, flags: Tensor | None = None, present: Tensor | None = None,
    per_choice: int = 1,
) -> Tensor:  # fmt: skip
    """Compute shared(x) + sum over the k chosen experts of weight_i * expert_i(x), without gradients.

    A row is refused if it is not finite, or if fewer than k experts are allowed for it: its answer is NaN, and a flag
    is set on the device. Without `flags` they are read here and refused rows raise, before any expert runs; that waits
    for the device. With `flags` nothing waits: call `check(flags)` where the answers are read anyway. While a CUDA
    graph is being captured nothing can be read, so there give `flags`, or look for NaN.

    Letters: n rows, d width, e experts, k chosen, f and g hidden numbers of a routed and of the shared expert.

    Args:
        rows: (n, d) fp16, bf16 or fp32 on a CUDA device; n may be zero.
        router_weight: (d, e), best fp32; the product is fp32 in any case.
        bias: (e,), added to scores for the choice alone.
        up: (e, d, 2f), gate and value side by side, of the type of `rows`.
        down: (e, f, d), of the type of `rows`.
        shared_up: (d, 2g), of the type of `rows`.
        shared_down: (g, d), of the type of `rows`.
        chosen: k, experts a row visits.
        allowed: (e,) or (n / per_choice, e) bool, the experts that may be visited; None for all.
        flags: (2,) int32 from `flags_for`; None to be told at once.
        present: (n,) bool, false for padding, which only the shared expert sees; None if there is none.
        per_choice: how many rows, one after another, go to the same experts, chosen by the mean of those present.

    Returns:
        (n, d), of the type of `rows`; sums are fp32.

    Raises:
        ValueError: shapes or types do not fit, rows are not on a CUDA device, or (without `flags`) a row is refused.
    """
    _check_weights(rows, router_weight, bias, up, down, shared_up, shared_down)
    _check_choice(rows, up.shape[0], chosen, allowed, present, per_choice)
    if rows.shape[0] == 0:
        return torch.empty_like(rows)
    rows = rows.contiguous()
    with torch.cuda.device(rows.device) if rows.is_cuda else nullcontext():
        raised = flags_for(rows.device) if flags is None else flags
        weights, ids, counts = _route(rows, router_weight, bias, chosen, allowed, present, per_choice, raised)
        if flags is None and not (rows.is_cuda and torch.cuda.is_current_stream_capturing()):
            check(raised)
        if rows.shape[0] <= SMALL_ROWS:
            return small(rows, ids, weights, up, down, shared_up, shared_down)
        (e, d, _), f = up.shape, down.shape[1]
        tiles_up = product_tiles(ids.numel(), e, d, f, rows.dtype)
        tiles_down = product_tiles(ids.numel(), e, f, d, rows.dtype)
        aligned = align(ids, counts, tiles_up.rows)
        hidden = products.gather_up(rows, up, aligned, chosen, tiles_up)
        answers = products.weighted_down(hidden, down, weights, aligned, tiles_down)
        return products.combine(answers, weights, products.shared_up(rows, shared_up), shared_down)


def _route(rows, router_weight, bias, chosen, allowed, present, per_choice, flags) -> tuple[Tensor, Tensor, Tensor]:
    allowed, present = (None if mask is None else mask.contiguous() for mask in (allowed, present))
    if per_choice == 1:
        return route(rows, router_weight, bias, chosen, allowed, present, flags)
    together = rows.float().view(-1, per_choice, rows.shape[1])  # (choices, per_choice, d)
    here = None if present is None else present.view(-1, per_choice)
    if here is None:
        deciding, any_here = together.mean(1), None
    else:
        size, any_here = here.sum(1, keepdim=True), here.any(1)
        deciding = torch.where(here.unsqueeze(2), together, 0).sum(1) / size.clamp(min=1)
    weights, ids, _ = route(deciding, router_weight, bias, chosen, allowed, any_here, flags)
    weights, ids = (of_choice.repeat_interleave(per_choice, dim=0) for of_choice in (weights, ids))
    if present is not None:
        weights = torch.where(present.unsqueeze(1), weights, 0)
        ids = torch.where(present.unsqueeze(1), ids, router_weight.shape[1])
    return weights, ids, count(ids, router_weight.shape[1])


def flags_for(device: torch.device) -> Tensor:
    """Make flags that are not set, to give to any number of calls and check once."""
    return torch.zeros(2, dtype=torch.int32, device=device)


def check(flags: Tensor) -> None:
    """Wait for the device, and raise if a row was refused since the flags were made.

    Raises:
        ValueError: a row is not finite, or has too few experts allowed.
    """
    raised = flags.tolist()
    if raised[NOT_FINITE]:
        raise ValueError(
            "a row is not finite (NaN or infinite), or its router scores are not; clean it before the model"
        )
    if raised[TOO_FEW]:
        raise ValueError("a row may visit fewer experts than it has to choose; allow at least as many as are chosen")


def _check_weights(rows, router_weight, bias, up, down, shared_up, shared_down) -> None:
    if not (rows.is_cuda or INTERPRETED):
        raise ValueError(
            f"rows are on {rows.device}; these kernels run on a CUDA device, elsewhere use models.moe.SparseExperts"
        )
    if rows.dim() != 2 or up.dim() != 3 or shared_up.dim() != 2:
        raise ValueError(f"rows, up, shared_up have {rows.dim()}, {up.dim()}, {shared_up.dim()} axes; give 2, 3, 2")
    d = rows.shape[1]
    e, f, g = up.shape[0], up.shape[2] // 2, shared_up.shape[1] // 2
    shapes = {
        "router_weight": (router_weight, (d, e)),
        "bias": (bias, (e,)),
        "up": (up, (e, d, 2 * f)),
        "down": (down, (e, f, d)),
        "shared_up": (shared_up, (d, 2 * g)),
        "shared_down": (shared_down, (g, d)),
    }
    for name, (tensor, shape) in shapes.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}; rows {tuple(rows.shape)} and up need {shape}")
        if tensor.device != rows.device:
            raise ValueError(f"{name} is on {tensor.device}, rows on {rows.device}; move one of them")
        if not tensor.is_contiguous():
            raise ValueError(f"{name} is not contiguous; call .contiguous() once, when the weights are loaded")
    for name in ("up", "down", "shared_up", "shared_down"):
        if shapes[name][0].dtype != rows.dtype:
            raise ValueError(f"{name} is {shapes[name][0].dtype}, rows {rows.dtype}; give both in one type")
    if rows.dtype not in _TYPES:
        raise ValueError(f"rows are {rows.dtype}; give float16, bfloat16 or float32")


def _check_choice(rows, experts, chosen, allowed, present, per_choice) -> None:
    n = rows.shape[0]
    if not 1 <= chosen <= experts:
        raise ValueError(f"chosen is {chosen}; choose between 1 and {experts}, the number of experts")
    if per_choice < 1 or n % per_choice:
        raise ValueError(f"per_choice is {per_choice}, which does not divide {n} rows; give every example as many rows")
    choices = n // per_choice
    if allowed is not None and (allowed.dtype != torch.bool or allowed.shape not in ((experts,), (choices, experts))):
        shapes = f"({experts},) or ({choices}, {experts})"
        raise ValueError(f"allowed is {allowed.dtype} {tuple(allowed.shape)}; give bool, {shapes}")
    if present is not None and (present.dtype != torch.bool or present.shape != (n,)):
        raise ValueError(f"present is {present.dtype} {tuple(present.shape)}; give bool, ({n},)")
