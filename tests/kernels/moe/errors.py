"""How far each kernel is from its twin, for the benchmark: in Triton's interpreter, or on a GPU.

Usage: TRITON_INTERPRET=1 python -m tests.kernels.moe.errors; the last line is JSON: kernel and type -> largest error,
relative to answers above 1. Sorting is right or wrong: 0 is right.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

from tests.kernels.moe.cases import TYPES, layer, unit_rows

from kernels.moe import alignment, flags_for, products, router, small, twins  # isort: skip: as above
from kernels.moe.launching import Tiles

NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
N, D, E, F, G = 70, 64, 8, 48, 40


def errors(dtype: torch.dtype, n: int = N) -> dict[str, float]:
    """Run each kernel once on random rows of unit scale, and compare."""
    case, x = layer(D, E, F, G, 2, dtype), unit_rows(n, D, dtype)
    weights, ids, counts = router.route(x, case.router, case.bias, 2, None, None, flags_for(x.device))
    twin_weights, twin_ids, _ = twins.route(x, case.router, case.bias, 2)
    assert torch.equal(ids, twin_ids)
    tiles = Tiles(16, 32, 32)
    plan = alignment.align(ids, counts, tiles.rows)
    order, blocks = twins.align(ids, E, tiles.rows)
    mapped = torch.stack([plan.expert, plan.first, plan.size], 1)[: len(blocks)]
    hidden = products.gather_up(x, case.up, plan, 2, tiles)
    answers = products.weighted_down(hidden, case.down, weights, plan, tiles)
    shared = products.shared_up(x, case.shared_up)
    whole = products.combine(answers, weights, shared, case.shared_down)
    few = small.small(x[:3], ids[:3], weights[:3], *case.weights()[2:])
    return {
        "route": error(weights, twin_weights),
        "plan": error(mapped, torch.tensor(blocks, device=x.device)),
        "order": error(plan.order, order),
        "count": error(alignment.count(ids, E), counts),
        "up": error(hidden, twins.gather_up(x, case.up, ids)),
        "shared up": error(shared, twins.shared_up(x, case.shared_up)),
        "down": error(answers, twins.weighted_down(hidden, case.down, weights, ids)),
        "combine": error(whole, twins.combine(answers, weights, shared, case.shared_down)),
        "small": error(few, case.expected(x)[:3]),
        "whole layer": error(case.answer(x), case.expected(x)),
    }


def error(found: Tensor, expected: Tensor) -> float:
    """Return the largest error, relative to answers above 1."""
    return ((found.double() - expected.double()).abs() / expected.double().abs().clamp(min=1)).max().item()


def main() -> None:
    """Print the errors as JSON."""
    print(json.dumps({f"{kernel} {NAMES[dtype]}": value for dtype in TYPES for kernel, value in errors(dtype).items()}))


if __name__ == "__main__":
    main()
