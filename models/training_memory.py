"""What a bundle remembers of the training of its network: curves, gradient norms, load of the experts per epoch."""

from __future__ import annotations

import msgspec


class LayerLoad(msgspec.Struct, frozen=True):
    """How often each expert of a layer was visited in an epoch."""

    visits: list[float]


class TaskEpoch(msgspec.Struct, frozen=True):
    """What one pass was for a task: mean training loss, the figure that chooses, all of the validation, load."""

    loss: float
    figure: float
    validation: dict[str, float]
    loads: list[LayerLoad]


class Epoch(msgspec.Struct, frozen=True):
    """One pass: mean training loss, what each task had of it, load of the experts by all tasks together."""

    loss: float
    tasks: dict[str, TaskEpoch]
    loads: list[LayerLoad]


class Curves(msgspec.Struct, frozen=True):
    """Means over neighbouring steps that end at each `step`; norms are those of the gradient before clipping."""

    step: list[int]
    loss: list[float]
    gradient_norm: list[float]
    part_norms: dict[str, list[float | None]] = {}


class TrainingMemory(msgspec.Struct, frozen=True):
    """See `models.train.report`; what is not named here is left out. `experts`: those that the task may visit."""

    epochs: list[Epoch]
    best_epoch: int
    steps: int
    curves: Curves | None = None
    experts: list[int] | None = None

    @property
    def best(self) -> Epoch:
        """The epoch whose network serves."""
        return self.epochs[self.best_epoch - 1]


# Made once, here: msgspec crashes if two threads meet a type for the first time at once.
_DECODER = msgspec.json.Decoder(TrainingMemory)


def read_memory(part: bytes) -> TrainingMemory | None:
    """Read the part `training.json` of a bundle; None if it is of another form, as of another kind of network."""
    try:
        memory = _DECODER.decode(part)
        return memory if 1 <= memory.best_epoch <= len(memory.epochs) else None
    except msgspec.ValidationError:
        return None
