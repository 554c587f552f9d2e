"""Distillation: a small dense network learns from a trained mixture of experts what the labels alone do not say.

    loss = 0.7 T^2 KL(teacher at T || student at T) + 0.3 cross-entropy with the labels

T softens both: how the teacher weighs wrong answers is worth learning, too. T^2 keeps the gradients of the first term
as large as those of the second. Student and teacher see the same batches, augmentation included; the epoch that is
best on what is held back is kept, as with the teacher.

Source: Hinton, Vinyals, Dean 2015 (arXiv:1503.02531), section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from models.train.task_data import Batch, TaskData
from models.train.tuning import Tuning, best_epoch, tune


@dataclass(frozen=True)
class DistillSettings:
    """How a student learns.

    Attributes:
        temperature: T, that both answers are softened with.
        soft: weight of the teacher's answers; the labels have the rest.
        tuning: how long and how fast.
    """

    temperature: float = 2.0
    soft: float = 0.7
    tuning: Tuning = field(default_factory=lambda: Tuning(epochs=16, learning_rate=3e-3))

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name, value, least, most in (("temperature", self.temperature, 0.1, 100.0), ("soft", self.soft, 0.0, 1.0)):
            if not least <= value <= most:
                raise ValueError(f"{name} is {value}; choose between {least:g} and {most:g}")


S = TypeVar("S", bound=nn.Module)


@dataclass(frozen=True)
class Distilled(Generic[S]):
    """A student that learned.

    Attributes:
        student: the one that was given, in evaluation mode, with the weights of the best epoch.
        best_epoch: from 1.
        epochs: of each, mean loss, and the validation's figures.
        settings: how it learned.
    """

    student: S
    best_epoch: int
    epochs: list[dict[str, Any]] = field(default_factory=list)
    settings: DistillSettings = field(default_factory=DistillSettings)


def soft_loss(
    student: Tensor, teacher: Tensor, temperature: float, classes: Sequence[int] = (), shift: float = 0.0
) -> Tensor:
    """Compute T^2 KL(teacher || student), both softened; a mean over examples.

    Args:
        student, teacher: (n,) logits of the positive class, or (n, sum of classes).
        temperature: T.
        classes: of each question that is answered, side by side; none for one logit.
        shift: added to single logits first: of a sampled problem, see `models.train.dataset.Sampling`.
    """
    if not classes:
        student, teacher = (torch.stack([torch.zeros_like(z), z + shift], 1) for z in (student, teacher))
        classes = (2,)
    total = torch.zeros((), device=student.device)
    for mine, theirs in zip(student.split(list(classes), 1), teacher.split(list(classes), 1), strict=True):
        total = total + nn.functional.kl_div(
            (mine.float() / temperature).log_softmax(1), (theirs.float() / temperature).log_softmax(1),
            reduction="batchmean", log_target=True,
        )  # fmt: skip
    return temperature**2 * total


def distil(
    data: TaskData,
    student: S,
    settings: DistillSettings,
    progress: Callable[[int, int, str], None] | None = None,
    *,
    classes: Sequence[int] = (),
    shift: float = 0.0,
) -> Distilled[S]:
    """Let a student learn the data of a task, and what its teacher says of it.

    Args:
        data: what the teacher was trained on; its batches tell what the teacher says (`Batch.taught`).
        student: its output is what the loss of the data takes, `student.served(output)` logits as the teacher serves
            them; what is known before the first step is in it.
        settings: how.
        progress: told steps done, of how many, and how it goes.
        classes, shift: of the answers, see `soft_loss`.

    Raises:
        ValueError: the loss is not finite.
    """

    def loss(part: Batch) -> Tensor:
        output = student(part.inputs)
        soft = soft_loss(student.served(output), part.taught, settings.temperature, classes, shift)
        return settings.soft * soft + (1 - settings.soft) * data.loss(output, part)

    def served(network: nn.Module, inputs: Any) -> Tensor:
        return network.served(network(inputs))

    epochs = tune(student, data, loss, served, settings.tuning, data.figure, progress)
    return Distilled(student, best_epoch(epochs, data.figure), epochs, settings)
