"""What a bundle remembers of the training of its network: curves, gradient norms, load of the experts per epoch."""

from __future__ import annotations

import msgspec


class LayerLoad(msgspec.Struct, frozen=True):
    """How often each expert of a layer was visited in an epoch."""

    visits: list[int]


class Epoch(msgspec.Struct, frozen=True):
    """One pass: mean training loss, figures of the validation, load of the experts."""

    loss: float
    log_loss: float
    average_precision: float
    auc: float
    loads: list[LayerLoad]


class Curves(msgspec.Struct, frozen=True):
    """Means over neighbouring steps that end at each `step`; norms are those of the gradient before clipping."""

    step: list[int]
    loss: list[float]
    gradient_norm: list[float]
    part_norms: dict[str, list[float | None]] = {}


class TrainingMemory(msgspec.Struct, frozen=True):
    """See `models.train.report`; what is not named here is left out."""

    epochs: list[Epoch]
    best_epoch: int
    steps: int
    curves: Curves | None = None


# Made once, here: msgspec crashes if two threads meet a type for the first time at once.
_DECODER = msgspec.json.Decoder(TrainingMemory)


def read_memory(part: bytes) -> TrainingMemory | None:
    """Read the part `training.json` of a bundle; None if it is of another form, as of another kind of network."""
    try:
        return _DECODER.decode(part)
    except msgspec.ValidationError:
        return None
