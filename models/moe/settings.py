"""How large the network is. The defaults are what the shipped bundle uses: about 7 MB as fp32 ONNX."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class MoESettings:
    """Sizes of the network.

    Attributes:
        width: d, numbers in a token.
        layers: transformer blocks; each has one mixture of experts.
        heads: attention heads; must divide `width`.
        experts: e, routed experts in a block.
        chosen: k, routed experts that a token visits.
        expert_width: f, hidden numbers in a routed expert.
        shared_width: hidden numbers in the expert that every token visits.
        tokens_max: tokens of an event at most, the summary token included; groups are merged to fit.
        sequence_tokens_max: how many of them may tell of the key's earlier events.
        bins: pieces of the piecewise-linear code of a number.
        waves: sine and cosine pairs in the periodic code of a number.
        buckets: rows of the embedding table of a category column, the null row not counted.
        category_width: numbers in a category's embedding before it joins its token.
        members: heads that vote (they share weights but for cheap vectors of their own).
        head_width: hidden numbers of the head.
        dropout: share of numbers dropped in tokens, block updates and the head while training.
        input_dropout: share of feature values shown as null while training.
        aux_weight: weight of the load-balancing loss.
        z_weight: weight of the loss that keeps router logits small.
        bias_step: how far one optimizer step moves the selection-only bias of an expert.
    """

    width: int = 128
    layers: int = 2
    heads: int = 4
    experts: int = 16
    chosen: int = 2
    expert_width: int = 128
    shared_width: int = 128
    tokens_max: int = 10
    sequence_tokens_max: int = 4
    bins: int = 16
    waves: int = 6
    buckets: int = 2048
    category_width: int = 16
    members: int = 8
    head_width: int = 128
    dropout: float = 0.05
    input_dropout: float = 0.02
    aux_weight: float = 0.01
    z_weight: float = 1e-3
    bias_step: float = 1e-3

    def __post_init__(self) -> None:
        may_be_zero = (
            "dropout",
            "input_dropout",
            "aux_weight",
            "z_weight",
            "bias_step",
            "waves",
            "sequence_tokens_max",
        )
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (value == 0 and field.name not in may_be_zero):
                raise ValueError(f"{field.name} is {value}; choose a number above zero")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}; change one of them")
        if self.chosen > self.experts:
            raise ValueError(f"chosen is {self.chosen}; choose between 1 and {self.experts}, the number of experts")
        if not 3 <= self.tokens_max <= 16:
            raise ValueError(f"tokens_max is {self.tokens_max}; choose between 3 and 16")
        if self.sequence_tokens_max > self.tokens_max - 2:
            raise ValueError(
                f"sequence_tokens_max is {self.sequence_tokens_max}, which leaves no token for the event itself; "
                f"choose at most {self.tokens_max - 2}"
            )
        for name in ("dropout", "input_dropout"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose a share below 1")
