"""Layers of random weights for the tests of the kernels: unit scale, because small inputs hide wrong kernels."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

pytest.importorskip("triton", reason="Triton is not installed (the extra `train` brings it on Linux)")

import torch
from torch import Tensor

from kernels.moe import sparse_experts, twins
from kernels.moe.launching import INTERPRETED

DEVICE = "cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda"
# the largest error of a number of size 1: fp32 sums in another order; fp16 and bf16 round it and the hidden numbers
ERRORS = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
TYPES = [torch.float32, torch.float16] if DEVICE == "cpu" else list(ERRORS)


@dataclass(frozen=True)
class Layer:
    """The weights of one sparse layer, as `sparse_experts` takes them."""

    router: Tensor  # (d, e)
    bias: Tensor  # (e,)
    up: Tensor  # (e, d, 2f)
    down: Tensor  # (e, f, d)
    shared_up: Tensor  # (d, 2g)
    shared_down: Tensor  # (g, d)
    chosen: int

    def weights(self) -> tuple[Tensor, ...]:
        """The six tensors, in order."""
        return self.router, self.bias, self.up, self.down, self.shared_up, self.shared_down

    def answer(self, rows: Tensor, **more: object) -> Tensor:
        """What the kernels say."""
        return sparse_experts(rows, *self.weights(), self.chosen, **more)

    def expected(self, rows: Tensor, **more: object) -> Tensor:
        """What the twin says, in fp64."""
        return twins.sparse_experts(rows, *self.weights(), self.chosen, **more)


def layer(d=32, e=8, f=16, g=24, chosen=2, dtype=torch.float32, seed=0) -> Layer:
    """Weights such that unit rows have unit answers."""
    made = torch.Generator().manual_seed(seed)

    def normal(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        scale = shape[-2] ** -0.5 if len(shape) > 1 else 0.1
        return (torch.randn(shape, generator=made) * scale).to(dtype).to(DEVICE)

    router, bias = normal(d, e, dtype=torch.float32), normal(e, dtype=torch.float32)
    return Layer(router, bias, normal(e, d, 2 * f), normal(e, f, d), normal(d, 2 * g), normal(g, d), chosen)


def unit_rows(n: int, d: int = 32, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Rows of size 1."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)


def exact_rows(n: int, d: int, seed: int) -> Tensor:
    """Rows of halves: with `exact_router` every sum is exact in any order, so equal scores are equal everywhere."""
    return (torch.randint(-2, 3, (n, d), generator=torch.Generator().manual_seed(seed)) / 2).to(DEVICE)


def exact_router(d: int, e: int, seed: int) -> Tensor:
    """Router weights of eighths, few of them different: many ties."""
    return (torch.randint(-2, 3, (d, e), generator=torch.Generator().manual_seed(seed)) / 8).to(DEVICE)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Equal up to the rounding of the type, relative to the size of the answers."""
    error = ((found.double() - expected.double()).abs() / expected.double().abs().clamp(min=1)).max().item()
    assert error <= ERRORS[dtype], f"off by {error:.1e}, more than {ERRORS[dtype]:.0e}"
