"""A short training of a network that is there already, or small: AdamW, a cosine, averaged weights, the best epoch.

What is learned is said by a function of a batch; the data says in which order. Equal arguments give equal numbers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.train.optimizing import adamw, follow, set_rate
from models.train.settings import above_zero
from models.train.task_data import Batch, TaskData, examples_of, on_device, rows_of

CPU = torch.device("cpu")
Tell = Callable[[int, int, str], None]  # steps done, of how many, how it goes


@dataclass(frozen=True)
class Tuning:
    """How long and how fast.

    Attributes:
        epochs: passes over the data.
        learning_rate: highest rate of AdamW.
        warmup_share: share of all steps over which the rate rises from 0; then it falls to 0 over half a cosine.
        weight_decay: of matrices.
        clip: largest norm of the gradient.
        average_decay: how slowly the averaged weights, which are judged and kept, follow.
        seed: of everything random.
        threads: CPU threads of torch.
    """

    epochs: int
    learning_rate: float
    warmup_share: float = 0.1
    weight_decay: float = 0.02
    clip: float = 1.0
    average_decay: float = 0.99
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        above_zero(self, may_be_zero=("warmup_share", "weight_decay", "average_decay", "seed"))
        for name in ("warmup_share", "average_decay"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose a share below 1")


def tune(
    network: nn.Module,
    data: TaskData,
    loss: Callable[[Batch], Tensor],
    served: Callable[[nn.Module, Any], Tensor],
    settings: Tuning,
    figure: str,
    tell: Tell | None = None,
    first_epoch: int = 0,
) -> list[dict[str, Any]]:
    """Train a network in place; afterwards it is in evaluation mode, with the averaged weights of the best epoch.

    Args:
        network: on the CPU.
        data: in which order it is learned, and what validates.
        loss: of a batch, by the network as it is.
        served: of a network and inputs, what is judged.
        settings: how.
        figure: of the validation, which chooses the epoch; the last of equals.
        tell: of progress.
        first_epoch: of the data, so that a second training sees other draws.

    Returns:
        Per epoch the mean loss and the validation's figures.

    Raises:
        ValueError: the loss is not finite.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            return _tune(network, data, loss, served, settings, figure, tell, first_epoch)
    finally:
        torch.set_num_threads(threads)


def _tune(
    network: nn.Module, data: TaskData, loss: Callable[[Batch], Tensor], served: Callable[[nn.Module, Any], Tensor],
    settings: Tuning, figure: str, tell: Tell | None, first_epoch: int,
) -> list[dict[str, Any]]:  # fmt: skip
    optimizer = adamw(network, settings.weight_decay)
    average, best = copy.deepcopy(network).eval(), copy.deepcopy(network.state_dict())
    steps, done, found = settings.epochs * data.steps_per_epoch, 0, list[dict[str, Any]]()
    for epoch in range(settings.epochs):
        network.train()
        losses, batches = [], data.steps(first_epoch + epoch, 0)
        for _ in range(data.steps_per_epoch):
            torch.manual_seed((settings.seed << 32) + first_epoch * data.steps_per_epoch + done)
            optimizer.zero_grad(set_to_none=True)
            losses.append(_gradients(next(batches), loss))
            norm = float(nn.utils.clip_grad_norm_(network.parameters(), settings.clip))
            if not (math.isfinite(losses[-1]) and math.isfinite(norm)):
                raise ValueError(f"the loss became {losses[-1]} (gradient norm {norm}) at step {done}; learn slower")
            set_rate(optimizer, settings.learning_rate, done, steps, settings.warmup_share)
            optimizer.step()
            follow(average.state_dict(), network, settings.average_decay, done)
            done += 1
            if tell is not None:
                told = f", {figure.replace('_', ' ')} {found[-1][figure]:.3f}" if found else ""
                tell(done, steps, f"epoch {epoch + 1} of {settings.epochs}, loss {np.mean(losses):.4f}{told}")
        figures = data.validate(predicting(average, served)).figures
        found.append({"loss": float(np.mean(losses)), **figures})
        if figures[figure] >= max(each[figure] for each in found):
            best = copy.deepcopy(average.state_dict())
    network.load_state_dict(best)
    network.eval()
    return found


def best_epoch(epochs: list[dict[str, Any]], figure: str) -> int:
    """Return the epoch, from 1, whose weights were kept: the last of the best."""
    scores = [each[figure] for each in epochs]
    return len(scores) - scores[::-1].index(max(scores))


def predicting(network: nn.Module, served: Callable[[nn.Module, Any], Tensor]) -> Callable[..., Any]:
    """Return what `TaskData.validate` asks: inputs to what is served of them, `at_once` at a time."""

    @torch.no_grad()
    def predict(inputs: Any, at_once: int = 2048) -> Any:
        found = [
            served(network, on_device(rows_of(inputs, slice(first, first + at_once)), CPU))
            for first in range(0, max(examples_of(inputs), 1), at_once)
        ]
        return torch.cat(found).float().numpy()

    return predict


def on_cpu(part: Batch) -> Batch:
    """Return a batch as tensors."""
    taught = None if part.taught is None else on_device(part.taught, CPU)
    return Batch(on_device(part.inputs, CPU), on_device(part.targets, CPU), part.examples, taught)


def _gradients(parts: Any, loss: Callable[[Batch], Tensor]) -> float:
    """Add the gradients of one step's batches; return the mean loss."""
    total, loss_sum = sum(part.examples for part in parts), 0.0
    for part in parts:
        its = loss(on_cpu(part))
        (its * (part.examples / total)).backward()
        loss_sum += float(its.detach()) * part.examples / total
    return loss_sum
