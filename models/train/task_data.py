"""What a task brings to training: where its batches come from, what is wrong with an answer, how good it is by now.

The trainer (`models/train/joint.py`) knows nothing of events, texts or images; a task's data knows nothing of steps,
optimizers or checkpoints. What everything random may depend on is said at each method, and that is why a run that was
interrupted goes on with the same numbers. Of several processes that train together each asks for its share of a batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.moe.network import Branch


@dataclass(frozen=True)
class Share:
    """Which part of each batch a process computes: every `count`th example, from `index` on."""

    index: int = 0
    count: int = 1

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this part of the rows of a batch; all of them to each process where there are fewer than processes.

        Then none has nothing to do, and the mean over processes is that over the rows all the same.

        >>> Share(1, 2).of(np.arange(5)), Share(1, 2).of(np.arange(1))
        (array([1, 3]), array([0]))
        """
        return rows[self.index :: self.count] if len(rows) >= self.count else rows


WHOLE = Share()


@dataclass(frozen=True)
class Packed:
    """What another process needs to learn from a task's data; `models.train.handing` makes it one again.

    Attributes:
        kind: of the data.
        arrays: by name; they may be large.
        told: all else, for JSON.
    """

    kind: str
    arrays: dict[str, NDArray[Any]]
    told: dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """One forward pass.

    Attributes:
        inputs: what the encoder takes: an array of numpy or torch, or a tuple, list or dict of them.
        targets: what the loss takes, alike.
        examples: how many there are; of a share of a batch, how many are in it.
        taught: what a teacher says of them, where one was asked.
    """

    inputs: Any
    targets: Any
    examples: int
    taught: Any = None


@dataclass(frozen=True)
class Curve:
    """A line of the report, for people."""

    title: str
    x_label: str
    y_label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Validation:
    """How good the network is on what it did not learn.

    Attributes:
        figures: name -> value; the one that `TaskData.figure` names chooses the best epoch.
        curves: drawn for the best epoch.
    """

    figures: dict[str, float]
    curves: Sequence[Curve] = field(default_factory=tuple)


Predict = Callable[..., Any]  # predict(inputs, at_once=2048): what the task serves of them, as numpy arrays


class TaskData(Protocol):
    """One task's data. Arrays may be read as they are needed: only one step's batches are asked for at a time.

    Attributes:
        figure: name of the validation figure that tells how good an epoch is, from 0 to 1, more is better.
        steps_per_epoch: optimizer steps in one epoch.
        weight: of the task's loss beside the others'.
    """

    figure: str
    steps_per_epoch: int
    weight: float

    def identity(self) -> dict[str, Any]:
        """Return what decides the numbers, for JSON: a digest of the data, what the columns are, choices."""

    def branch(self, experts: Sequence[int] | None) -> Branch:
        """Return encoder and head, with the experts that the task may visit."""

    def attach(self, encoder: nn.Module) -> None:
        """Keep the encoder at hand, if the loss wants more of it than the head's output. Reads no data."""

    def start(self, encoder: nn.Module, head: nn.Module) -> None:
        """Put into them what is learned before the first step: scales, base rates. Draws nothing from torch.

        Of several processes one does it, and the others get what it put there.
        """

    def steps(self, epoch: int, first: int, share: Share = WHOLE) -> Iterator[Sequence[Batch]]:
        """Give the batches of each step of an epoch, from step `first` on: several of one step are accumulated.

        What a step gives is a function of epoch and step alone; of each batch, a share is given, and no other data is
        read. Before each is asked for, torch's generator is seeded by step and process, so augmentation may draw from
        it.
        """

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Return the mean loss of a batch from what the head gave; `batch` is on the device of the network."""

    def validate(self, predict: Predict) -> Validation:
        """Judge the network on data that it does not learn."""

    def packed(self) -> Packed:
        """Return what another process needs for `branch`, `attach`, `steps` and `loss`."""


class Repeated:
    """A `TaskData` that goes several times through the data of another in one epoch, each time as in an epoch."""

    def __init__(self, data: TaskData, passes: int) -> None:
        self._data, self._passes = data, passes
        self.figure, self.weight = data.figure, data.weight
        self.steps_per_epoch = passes * data.steps_per_epoch

    def identity(self) -> dict[str, Any]:
        """Tell how often, too."""
        return self._data.identity() | {"passes": self._passes}

    def steps(self, epoch: int, first: int, share: Share = WHOLE) -> Iterator[Sequence[Batch]]:
        """Give the steps of one epoch of the data after another."""
        done, first = divmod(first, self._data.steps_per_epoch)
        for each in range(epoch * self._passes + done, (epoch + 1) * self._passes):
            yield from self._data.steps(each, first, share)
            first = 0

    def branch(self, experts: Sequence[int] | None) -> Branch:
        """Return encoder and head of the data."""
        return self._data.branch(experts)

    def attach(self, encoder: nn.Module) -> None:
        """Keep the encoder for the data."""
        self._data.attach(encoder)

    def start(self, encoder: nn.Module, head: nn.Module) -> None:
        """Put into them what the data knows before the first step."""
        self._data.start(encoder, head)

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Return the loss of the data."""
        return self._data.loss(output, batch)

    def validate(self, predict: Predict) -> Validation:
        """Judge by the data."""
        return self._data.validate(predict)

    def packed(self) -> Packed:
        """Pack the data, and how often."""
        inner = self._data.packed()
        return Packed(inner.kind, inner.arrays, inner.told | {"passes": self._passes})


def on_device(tree: Any, device: torch.device) -> Any:
    """Copy arrays, in whatever they are packed, to a device as tensors."""
    if isinstance(tree, dict):
        return {name: on_device(each, device) for name, each in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(on_device(each, device) for each in tree)
    return torch.as_tensor(tree).to(device)


def rows_of(tree: Any, rows: slice) -> Any:
    """Take some examples of arrays, in whatever they are packed."""
    if isinstance(tree, dict):
        return {name: rows_of(each, rows) for name, each in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(rows_of(each, rows) for each in tree)
    return tree[rows]


def examples_of(tree: Any) -> int:
    """Count the examples of arrays, in whatever they are packed."""
    while isinstance(tree, dict | tuple | list):
        tree = next(iter(tree.values())) if isinstance(tree, dict) else tree[0]
    return len(tree)
