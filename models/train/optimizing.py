"""What every training of a network has in common: which weights decay, how the rate moves, how averages follow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

NOT_DECAYED = ("table", "frequencies", "place")  # looked up or added, not multiplied with what comes in


def adamw(network: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """Return the optimizer, at rate 0: matrices decay, vectors and what is looked up do not.

    Source: Loshchilov, Hutter 2019 (arXiv:1711.05101).
    """
    named = list(network.named_parameters())
    matrices = [each for name, each in named if each.ndim >= 2 and not name.endswith(NOT_DECAYED)]
    chosen = {id(each) for each in matrices}
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": [each for _, each in named if id(each) not in chosen], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))


def set_rate(optimizer: torch.optim.Optimizer, highest: float, step: int, steps: int, warmup_share: float) -> None:
    """Set the learning rate of a step: a linear rise over a share of all steps, then half a cosine down to 0."""
    rise = max(1, round(steps * warmup_share))
    share = (step + 1) / rise if step < rise else 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
    for group in optimizer.param_groups:
        group["lr"] = highest * share


@torch.no_grad()
def follow(average: Mapping[str, Tensor], network: nn.Module, decay: float, step: int) -> None:
    """Move averaged arrays, by name, towards those of a network; early on they are the plain mean of what there was.

    Source: Polyak, Juditsky 1992.
    """
    share = max(1 - decay, 1 / (step + 1))
    for name, array in network.state_dict().items():
        if array.is_floating_point():
            average[name].lerp_(array, share)
