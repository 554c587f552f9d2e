"""The sparse layer as others compute it on a GPU, to be timed beside ours: torch's grouped product, vLLM's kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm, silu

from tests.kernels.moe.cases import Layer

try:
    from vllm.model_executor.layers.fused_moe import fused_experts
except ImportError:
    fused_experts = None


def torch_grouped(layer: Layer) -> Callable[[Tensor], Tensor]:
    """Sort by expert, two grouped products, add up: torch operators alone, nothing that waits for the host."""

    def answer(rows: Tensor) -> Tensor:
        weights, ids = _routed(layer, rows)
        n, k = ids.shape
        order = ids.flatten().argsort(stable=True)
        ends = torch.nn.functional.one_hot(ids.flatten(), layer.router.shape[1]).sum(0).cumsum(0).int()
        gate, value = grouped_mm(rows[order // k], layer.up, offs=ends).chunk(2, dim=1)
        sorted_answers = grouped_mm(silu(gate) * value, layer.down, offs=ends)
        answers = torch.empty_like(sorted_answers).index_copy_(0, order, sorted_answers)
        return (answers.view(n, k, -1) * weights.unsqueeze(2)).sum(1).to(rows.dtype) + _shared(layer, rows)

    return answer


def vllm_fused(layer: Layer) -> Callable[[Tensor], Tensor] | None:
    """vLLM's Triton kernel with torch's router before it and shared expert beside it; None if vLLM is not installed.

    Never run so far: written after its sources. It gets no name for the activation, which was a text and became an
    enumeration; silu times the value is what all versions take by themselves.
    """
    if fused_experts is None:
        return None
    up, down = layer.up.mT.contiguous(), layer.down.mT.contiguous()  # its layout: (e, 2f, d), (e, d, f)

    def answer(rows: Tensor) -> Tensor:
        weights, ids = _routed(layer, rows)
        return fused_experts(rows, up, down, weights, ids.int()) + _shared(layer, rows)

    return answer


def _routed(layer: Layer, rows: Tensor) -> tuple[Tensor, Tensor]:
    scores = torch.sigmoid(rows.float() @ layer.router)
    ids = (scores + layer.bias).topk(layer.chosen, dim=1)[1]
    picked = scores.gather(1, ids)
    return picked / picked.sum(1, keepdim=True), ids


def _shared(layer: Layer, rows: Tensor) -> Tensor:
    gate, value = (rows @ layer.shared_up).chunk(2, dim=1)
    return (silu(gate) * value) @ layer.shared_down
