"""One optimizer step: the losses of the tasks that take part, their gradients, and what the routers did.

Of several processes each computes a share of every batch. Their gradients are averaged by DistributedDataParallel
while the last backward pass of the step runs; what is not linear in the examples (the shares of visits in the balance
loss, batch normalisation) is summed up before it is used. So a step is that of one process with the whole batch, up to
the rounding of sums and what dropout and augmentation draw.

Which parameters a step uses depends on which tasks take part in it, and a pass uses one task's alone: with several
tasks DistributedDataParallel looks for the unused ones (`find_unused_parameters`). Experts are no reason to: one that
no token visits has a gradient of zeros. A static graph is none of a training in which a task sits steps out.

Source: Li et al. 2020 (arXiv:2006.15704), sections 3.2 and 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.moe.network import MoENetwork
from models.moe.parts import PARTS, part_of
from models.moe.router import Routing, balance_loss
from models.train.norms import share_norms
from models.train.processes import Processes
from models.train.task_data import Batch, TaskData, on_device

# Buffers are not sent at each step: every one is computed of all processes' numbers, so they are equal.
_NAMES = signature(DistributedDataParallel).parameters
_NO_BUFFERS = {"forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers": False}
REMEMBERED = ("visits", "share", "mean_score", "z_loss")


class Objective(nn.Module):
    """The loss of a batch with what is beside it, as one module: DistributedDataParallel sees all that was used."""

    def __init__(self, network: MoENetwork, tasks: Mapping[str, TaskData], processes: Processes) -> None:
        super().__init__()
        self.network = network
        self._tasks, self._processes = tasks, processes
        self.loss, self.routings = torch.zeros(()), list[Routing]()  # of the last batch, of all processes together
        self.parts: list[float] = []  # which part of the last batch's tokens this process had, layer by layer

    def forward(self, task: str, part: Batch, total: float, others: Sequence[Sequence[Routing]]) -> Tensor:
        """Give what this process has of the objective; the mean over processes is the whole.

        Args:
            task: whose batch it is.
            part: this process's share of the batch, on the device.
            total: examples of the step, in all batches and processes.
            others: what the routers did with the other tasks' last batches.
        """
        sizes, data, count = self.network.settings, self._tasks[task], self._processes.place.count
        device = next(self.network.parameters()).device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            output, routings = self.network(part.inputs, task)
        self.loss = data.loss(output, part)
        self.routings, examples, self.parts = self._together(routings, part.examples)
        aside = sum(
            (sizes.aux_weight * balance_loss([mine, *(other[layer] for other in others)])
             + sizes.z_weight * mine.z_loss) * (count * self.parts[layer])
            for layer, mine in enumerate(self.routings)
        )  # fmt: skip
        return (data.weight * self.loss * (count * part.examples / examples) + aside) * (examples / total)

    def _together(self, mine: list[Routing], examples: int) -> tuple[list[Routing], int, list[float]]:
        """Count visits and examples of all processes; return also this one's part of the tokens, layer by layer."""
        if not self._processes.several:
            return mine, examples, [1.0] * len(mine)
        visits = torch.stack([routing.visits for routing in mine])  # (layers, e)
        told = torch.cat([visits.flatten(), torch.tensor([examples], device=visits.device)])
        self._processes.sum(told)
        together = told[:-1].view_as(visits)
        shared = [
            Routing(its, (its / its.sum()).to(routing.share.dtype), routing.mean_score, routing.z_loss)
            for its, routing in zip(together, mine, strict=True)
        ]
        return shared, int(told[-1]), (visits.sum(1) / together.sum(1)).tolist()


class Learner:
    """Computes the gradients of a step.

    Attributes:
        network: whose.
        last: what the routers did with the last batch of each task, of all processes.
    """

    def __init__(self, network: MoENetwork, tasks: Mapping[str, TaskData], processes: Processes) -> None:
        self.network, self.tasks, self.processes = network, tasks, processes
        self.last: dict[str, list[Routing]] = {}
        self.objective = Objective(network, tasks, processes)
        self._wrapped: DistributedDataParallel | None = None
        if processes.several:
            share_norms(network)

    def wrap(self) -> None:
        """Give all processes the weights and buffers of process 0, and average gradients from now on."""
        if self.processes.several:
            self.network.load_state_dict(self.processes.agreed_arrays(self.network.state_dict()))
            self._wrapped = DistributedDataParallel(
                self.objective, find_unused_parameters=len(self.tasks) > 1, **_NO_BUFFERS
            )  # fmt: skip

    def learn(self, task: str, parts: Sequence[Batch], is_last: bool) -> tuple[float, Tensor]:
        """Add the gradients of one task's batches; return its mean loss and its (layers, e) visits.

        Args:
            task: which.
            parts: its batches, of this process's share.
            is_last: no other task takes part in the step; the last pass averages gradients over processes.
        """
        sizes, device = self.network.settings, next(self.network.parameters()).device
        own_total = sum(part.examples for part in parts)
        total = float(self.processes.sum(torch.tensor([own_total], dtype=torch.float64)))
        others = [self.last[other] for other in self.tasks if other != task and other in self.last]
        visits = torch.zeros(sizes.layers, sizes.experts, dtype=torch.long, device=device)
        loss_sum = 0.0
        module: Any = self._wrapped or self.objective
        for number, part in enumerate(parts):
            part = Batch(on_device(part.inputs, device), on_device(part.targets, device), part.examples)
            averages = self._wrapped is None or (is_last and number == len(parts) - 1)
            with nullcontext() if averages else module.no_sync():
                module(task, part, total, others).backward()
            loss_sum += float(self.objective.loss.detach()) * part.examples / total
            visits += torch.stack([routing.visits for routing in self.objective.routings])
        loss_sum, self.last[task] = self._noted(loss_sum, visits)
        return loss_sum, visits

    def _noted(self, loss_sum: float, visits: Tensor) -> tuple[float, list[Routing]]:
        """Return the loss and what is remembered of the last batch, of all processes."""
        routings = self.objective.routings
        scores = torch.stack([routing.mean_score.detach() for routing in routings])  # (layers, e)
        z_losses = torch.stack([routing.z_loss.detach() for routing in routings])  # (layers,)
        if self.processes.several:
            mine = scores.new_tensor(self.objective.parts)  # (layers,)
            told = torch.cat([(scores * mine.unsqueeze(1)).flatten(), z_losses * mine, scores.new_tensor([loss_sum])])
            told = told.double()
            self.processes.sum(told)
            layers, e = scores.shape
            scores, z_losses = told[: layers * e].view(layers, e).to(scores), told[layers * e : -1].to(z_losses)
            loss_sum = float(told[-1])
        rows = zip(visits, routings, scores, z_losses, strict=True)
        return loss_sum, [Routing(its, routing.share, score, z_loss) for its, routing, score, z_loss in rows]

    def rebalance(self, visits: Mapping[str, Tensor]) -> None:
        """Move the routers' biases after a step, by its visits and those remembered of tasks that sat it out."""
        together = together_alike([visits.get(task, stacked(self.last[task], "visits")) for task in self.last])
        for router, layer in zip(self.network.routers(), together, strict=True):
            router.rebalance(layer, self.network.settings.bias_step)

    def part_norms(self) -> dict[str, float]:
        """Compute the gradient's norm of each part of the network, before clipping."""
        gradients: dict[str, list[Tensor]] = {part: [] for part in PARTS}
        for name, parameter in self.network.named_parameters():
            if parameter.grad is not None:
                gradients[part_of(name)].append(parameter.grad)
        return {part: float(torch.nn.utils.get_total_norm(its)) for part, its in gradients.items() if its}

    def arrays(self) -> dict[str, Tensor]:
        """Return what is remembered, for a checkpoint."""
        return {
            f"last.{task}.{name}": stacked(routings, name)
            for task, routings in self.last.items() for name in REMEMBERED
        }  # fmt: skip

    def restore(self, arrays: Mapping[str, Tensor], device: torch.device) -> None:
        """Remember what `arrays` told."""
        for task in (task for task in self.tasks if f"last.{task}.visits" in arrays):
            remembered = [arrays[f"last.{task}.{name}"].to(device) for name in REMEMBERED]
            self.last[task] = [Routing(*layer) for layer in zip(*remembered, strict=True)]


def together_alike(visits: Sequence[Tensor]) -> Tensor:
    """Add the (layers, e) visits of tasks as if each had sent equally many tokens through each layer, rounded."""
    if len(visits) == 1:
        return visits[0]
    shares = [each.double() / each.sum(1, keepdim=True).clamp(min=1) for each in visits]
    return (sum(shares) / len(visits) * sum(each.sum(1, keepdim=True) for each in visits)).round().long()


def stacked(routings: Sequence[Routing], name: str) -> Tensor:
    """Stack one attribute of what the routers of all layers did."""
    return torch.stack([getattr(routing, name) for routing in routings])
