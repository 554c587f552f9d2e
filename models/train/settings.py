"""How the network is trained."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class TrainSettings:
    """Choices of a training run. Two runs with equal settings, data and machine give equal weights on a CPU.

    Attributes:
        epochs: passes at most; the learning rate falls to 0 over exactly these.
        batch: events in a forward pass.
        accumulate: forward passes per optimizer step.
        learning_rate: highest rate of AdamW, reached after the warm-up.
        warmup_share: share of all steps over which the rate rises from 0.
        weight_decay: of matrices; vectors, biases and embeddings have none.
        clip: largest norm of the gradient.
        negatives_per_positive: negatives drawn anew each epoch for each positive; 0 takes all of them.
        positive_weight: weight of a positive in the loss. It and the drawing are both taken out of the logit again.
        average_decay: how slowly the averaged weights, which are validated and kept, follow the trained ones.
        validation_share: the last part of the time range, for early stopping.
        validation_negatives_max: negatives looked at in validation; each then counts for several.
        patience: epochs without a better validation average precision before training stops.
        seed: of everything random.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        threads: CPU threads of torch while training.
    """

    epochs: int = 8
    batch: int = 512
    accumulate: int = 1
    learning_rate: float = 2e-3
    warmup_share: float = 0.1
    weight_decay: float = 0.05
    clip: float = 1.0
    negatives_per_positive: float = 10.0
    positive_weight: float = 1.0
    average_decay: float = 0.99
    validation_share: float = 0.15
    validation_negatives_max: int = 20_000
    patience: int = 4
    seed: int = 0
    device: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        may_be_zero = ("warmup_share", "weight_decay", "negatives_per_positive", "average_decay", "seed")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                continue
            if value < 0 or (value == 0 and field.name not in may_be_zero):
                raise ValueError(f"{field.name} is {value}; choose a number above zero")
        for name in ("warmup_share", "average_decay", "validation_share"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose a share below 1")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}; choose auto, cpu or cuda")
