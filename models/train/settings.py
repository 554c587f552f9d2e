"""How the network is trained, whatever its tasks."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class TrainSettings:
    """Choices of a training run. Two runs with equal settings, data and machine give equal weights on a CPU.

    Attributes:
        epochs: passes at most; the learning rate falls to 0 over exactly these.
        learning_rate: highest rate of AdamW, reached after the warm-up.
        warmup_share: share of all steps over which the rate rises from 0.
        weight_decay: of matrices; vectors, biases and embeddings have none.
        clip: largest norm of the gradient.
        average_decay: how slowly the averaged weights, which are validated and kept, follow the trained ones.
        patience: epochs without a better validation before training stops.
        last_epoch: the epoch, from 1, after which training ends, and whose weights are kept whatever the validation
            says of them; 0 is no such. The learning rate is as if it went on.
        checkpoint_steps: steps between two checkpoints at most; there is one after each epoch, too.
        seed: of everything random.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        threads: CPU threads of torch while training.
    """

    epochs: int = 8
    learning_rate: float = 2e-3
    warmup_share: float = 0.1
    weight_decay: float = 0.05
    clip: float = 1.0
    average_decay: float = 0.99
    patience: int = 4
    last_epoch: int = 0
    checkpoint_steps: int = 500
    seed: int = 0
    device: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        above_zero(self, may_be_zero=("warmup_share", "weight_decay", "average_decay", "last_epoch", "seed"))
        for name in ("warmup_share", "average_decay"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose a share below 1")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}; choose auto, cpu or cuda")


def above_zero(settings: Any, may_be_zero: Sequence[str]) -> None:
    """Check the numbers of a settings class.

    Raises:
        ValueError: one is below zero, or zero where it may not be.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        if not isinstance(value, str) and (value < 0 or (value == 0 and field.name not in may_be_zero)):
            raise ValueError(f"{field.name} is {value}; choose a number above zero")
