"""Structured pruning: hidden numbers of experts are taken away, so that the arrays of the network really get smaller.

Of each expert, the routed ones and the shared one, those hidden numbers stay whose loss would change most without them:
importance of number i = sum over batches of (dL/dm_i)^2, where m_i = 1 multiplies it, and dL/dm_i = sum_j D_ij dL/dD_ij
by the chain rule, D being the expert's second matrix. All experts of a network keep equally many, so that they stay one
array. First 40 % go, then 5 % of what there was in each cycle; after each the network is tuned, and judged on what is
held back. It ends with the first cycle that falls short; the one before is kept.

Source: Molchanov et al. 2019 (arXiv:1906.10771), equations 5 to 8, with gates on hidden numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from models.moe.experts import SparseExperts
from models.moe.network import MoENetwork
from models.train.task_data import Batch, TaskData
from models.train.tuning import Tuning, on_cpu, predicting, tune

EVEN = 4  # hidden numbers are kept in multiples of it: odd rests cost as much as whole ones
IMPORTANCE_STEPS = 20  # of the data, that importance is seen in


@dataclass(frozen=True)
class PruneSettings:
    """How a network is pruned.

    Attributes:
        tolerance: how much the held-back figure may fall below that of the whole network.
        first, step: share of the hidden numbers that goes at first, and in each cycle after.
        most: share that is never passed.
        tuning: after each.
    """

    tolerance: float
    first: float = 0.4
    step: float = 0.05
    most: float = 0.9
    tuning: Tuning = field(default_factory=lambda: Tuning(epochs=1, learning_rate=5e-4, average_decay=0.95))

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}; give what the figure may lose, such as 0.002")
        if not (self.step > 0 and 0 < self.first <= self.most < 1):
            raise ValueError(
                f"first is {self.first}, step {self.step}, most {self.most}; give shares, first <= most < 1"
            )


@dataclass(frozen=True)
class Cycle:
    """One state of the network.

    Attributes:
        pruned: share of the hidden numbers that are gone; 0 for the whole network.
        expert_width, shared_width: hidden numbers of a routed expert, and of the shared one.
        parameters: of the network.
        figure: on what is held back.
        is_good: whether that is within the tolerance.
    """

    pruned: float
    expert_width: int
    shared_width: int
    parameters: int
    figure: float
    is_good: bool


def importance(network: MoENetwork, data: TaskData, settings: PruneSettings) -> list[tuple[Tensor, Tensor]]:
    """Return, for each layer, how much each hidden number matters: (e, f) of routed experts, (g,) of the shared one."""
    experts = layers_of(network)
    found = [(torch.zeros(each.down.shape[:2]), torch.zeros(each.shared_down.shape[0])) for each in experts]
    network.eval()  # without dropout: what matters when it serves
    steps = data.steps(0, 0)
    for number in range(min(IMPORTANCE_STEPS, data.steps_per_epoch)):
        torch.manual_seed((settings.tuning.seed << 32) + number)
        for part in next(steps):
            network.zero_grad(set_to_none=True)
            part = on_cpu(part)
            data.loss(network(part.inputs)[0], part).backward()
            for (routed, shared), each in zip(found, experts, strict=True):
                routed += _by_gates(each.down)
                shared += _by_gates(each.shared_down)
    network.zero_grad(set_to_none=True)
    return found


def layers_of(network: MoENetwork) -> list[SparseExperts]:
    """Return the sparse layers, first block first."""
    return [block.experts for block in network.trunk.blocks]


@torch.no_grad()
def _by_gates(down: nn.Parameter) -> Tensor:
    return torch.zeros(down.shape[:-1]) if down.grad is None else (down * down.grad).sum(-1).square()


@torch.no_grad()
def shrink(network: MoENetwork, matters: list[tuple[Tensor, Tensor]], expert_width: int, shared_width: int) -> None:
    """Keep the hidden numbers that matter most, in their order, for good."""
    for experts, (routed, shared) in zip(layers_of(network), matters, strict=True):
        kept = routed.topk(expert_width, dim=1).indices.sort(dim=1).values  # (e, f')
        d = experts.down.shape[2]
        columns = kept.unsqueeze(1).expand(-1, d, -1)  # (e, d, f')
        gate, value = (half.gather(2, columns) for half in experts.up.chunk(2, dim=-1))
        experts.up = nn.Parameter(torch.cat([gate, value], dim=-1).contiguous())
        experts.down = nn.Parameter(experts.down.gather(1, kept.unsqueeze(2).expand(-1, -1, d)).contiguous())
        kept = shared.topk(shared_width).indices.sort().values  # (g',)
        gate, value = (half[:, kept] for half in experts.shared_up.chunk(2, dim=-1))
        experts.shared_up = nn.Parameter(torch.cat([gate, value], dim=-1).contiguous())
        experts.shared_down = nn.Parameter(experts.shared_down[kept].contiguous())
    network.settings = replace(network.settings, expert_width=expert_width, shared_width=shared_width)
    network.trunk.settings = network.settings


def prune(
    network: MoENetwork,
    data: TaskData,
    figure: str,
    settings: PruneSettings,
    tell: Callable[[int, int, str], None] | None = None,
    after: Callable[[Cycle, MoENetwork], None] | None = None,
) -> tuple[MoENetwork, list[Cycle]]:
    """Prune the network of one task as far as the tolerance allows.

    Args:
        network: of one task, trained, on the CPU; it is left as it is.
        data: what it was trained on.
        figure: of the validation, that must not fall.
        settings: how.
        tell: of cycles done, of how many at most, and how it goes.
        after: told of every cycle with its network, the whole one first.

    Returns:
        The smallest network that is good enough, the whole one if none is, and all cycles.
    """

    def served(its: nn.Module, inputs: Any) -> Tensor:
        return its.logits(inputs)

    whole = network.settings
    best = current = copy.deepcopy(network).eval()
    judged = float(data.validate(predicting(current, served)).figures[figure])
    cycles = [_cycle(current, 0.0, judged, True)]
    if after is not None:
        after(cycles[0], current)
    shares = [settings.first]
    while shares[-1] + settings.step <= settings.most + 1e-9:
        shares.append(shares[-1] + settings.step)
    for number, share in enumerate(shares):
        if tell is not None:
            tell(number, len(shares), f"{cycles[-1].pruned:.0%} gone, {figure} {cycles[-1].figure:.4f}")
        current = copy.deepcopy(current)
        widths = [
            max(EVEN, round(each * (1 - share) / EVEN) * EVEN) for each in (whole.expert_width, whole.shared_width)
        ]
        if tuple(widths) == (current.settings.expert_width, current.settings.shared_width):
            continue  # too narrow for this cycle to be one
        shrink(current, importance(current, data, settings), *widths)
        begin = number * settings.tuning.epochs  # other draws of the data in each cycle
        tune(current, data, _loss_of(current, data), served, settings.tuning, figure, None, begin)
        found = float(data.validate(predicting(current, served)).figures[figure])
        cycles.append(_cycle(current, share, found, found >= judged - settings.tolerance))
        if after is not None:
            after(cycles[-1], current)
        if not cycles[-1].is_good:
            break
        best = current
    return best, cycles


def _loss_of(network: MoENetwork, data: TaskData) -> Callable[[Batch], Tensor]:
    """Return the loss of the training: the task's, and what keeps experts evenly loaded."""

    def loss(part: Batch) -> Tensor:
        output, routings = network(part.inputs)
        aside = sum(
            network.settings.aux_weight * each.balance_loss + network.settings.z_weight * each.z_loss
            for each in routings
        )
        return data.loss(output, part) + aside

    return loss


def _cycle(network: MoENetwork, pruned: float, figure: float, is_good: bool) -> Cycle:
    settings, parameters = network.settings, sum(each.numel() for each in network.parameters())
    return Cycle(round(pruned, 4), settings.expert_width, settings.shared_width, parameters, figure, is_good)
