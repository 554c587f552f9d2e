"""Training on messages: intents and priorities together; messages out of scope teach that no intent is theirs.

Each step sees messages with a share of their grams and pieces left out. A message out of scope is taught to be all
intents alike: the largest probability is then what tells it from the others.

Source for the last: outlier exposure, Hendrycks, Mazeika, Dietterich 2019 (arXiv:1812.04606), section 3.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.moe.network import Branch
from models.moe.text import ClassHead, TextEncoder, TextSettings
from models.text.inputs import TextInputs
from models.train.settings import above_zero
from models.train.task_data import WHOLE, Batch, Packed, Predict, Share, Validation

Int64s = NDArray[np.int64]
NO_LABEL, OUT_OF_SCOPE = -1, -2  # instead of a class
SPREAD_MIN = 0.1  # of the mean spread: some numbers of sentences are always the same but for rounding
AT_ONCE = 256  # messages in a forward pass that is not learned from


@dataclass(frozen=True)
class TextChoices:
    """How messages are learned.

    Attributes:
        batch: messages in a step.
        smoothing: share of a label that is spread over all classes.
        scope_weight: weight of the loss of messages out of scope.
        priority_weight: weight of the loss of priorities.
        weight: of the loss beside other tasks'.
    """

    batch: int = 64
    smoothing: float = 0.1
    scope_weight: float = 0.5
    priority_weight: float = 0.3
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        above_zero(self, may_be_zero=("smoothing", "scope_weight", "priority_weight"))


class TextData:
    """A `TaskData` of messages with intents and priorities.

    Args:
        inputs: of all messages.
        intents, priorities: (messages,) classes, or NO_LABEL; intents also OUT_OF_SCOPE.
        counts: how many intents and priorities there are.
        held: (messages,) which validate instead of training.
        choices: how to learn.
        sizes: of the encoder.

    Raises:
        ValueError: fewer messages to learn than one batch, or none with an intent to validate.
    """

    figure = "accuracy"  # of intents; how probable they are is calibrated afterwards

    def __init__(
        self,
        inputs: TextInputs,
        intents: Int64s,
        priorities: Int64s,
        counts: tuple[int, int],
        held: NDArray[np.bool_],
        choices: TextChoices,
        sizes: TextSettings,
    ) -> None:
        self.inputs, self.counts, self.choices, self.sizes = inputs, counts, choices, sizes
        self.targets = np.stack([intents, priorities], axis=1)
        self.learned, self.held = np.flatnonzero(~held), np.flatnonzero(held & (intents >= 0))
        if len(self.learned) < choices.batch or not len(self.held):
            raise ValueError(
                f"there are {len(self.learned)} messages to learn and {len(self.held)} to validate; "
                f"give at least {choices.batch}, one batch, and 1"
            )
        self.weight, self.steps_per_epoch = choices.weight, len(self.learned) // choices.batch

    def changed(self, choices: Mapping[str, Any], sizes: Mapping[str, Any]) -> TextData:
        """Return the same messages with some choices and sizes changed; what is read of them stays."""
        other = copy.copy(self)
        other.choices, other.sizes = replace(self.choices, **choices), replace(self.sizes, **sizes)
        return other

    def whole(self) -> TextData:
        """Return the same messages, with what is held back among those to learn; it still validates, too."""
        everything = copy.copy(self)
        everything.learned = np.arange(len(self.targets))
        everything.steps_per_epoch = len(self.targets) // self.choices.batch
        return everything

    @classmethod
    def unpacked(cls, packed: Packed) -> TextData:
        """Return what learns as the data that was packed; nobody validates with it."""
        arrays, told = packed.arrays, packed.told
        inputs = TextInputs(*(arrays.get(name) for name in TextInputs._fields))  # type: ignore[arg-type]
        choices, sizes = TextChoices(**told["choices"]), TextSettings(**told["sizes"])
        made = cls.__new__(cls)
        made.inputs, made.targets, made.learned = inputs, arrays["targets"], arrays["learned"]
        made.held = np.zeros(0, np.int64)
        made.counts, made.choices, made.sizes = (told["counts"][0], told["counts"][1]), choices, sizes
        made.weight, made.steps_per_epoch = choices.weight, len(made.learned) // choices.batch
        return made

    def packed(self) -> Packed:
        """Pack messages, classes, and which are learned."""
        arrays = {name: its for name, its in self.inputs._asdict().items() if its is not None}
        told = {"counts": list(self.counts), "choices": asdict(self.choices), "sizes": asdict(self.sizes)}
        return Packed("texts", arrays | {"targets": self.targets, "learned": self.learned}, told)

    def identity(self) -> dict[str, Any]:
        """Tell data, classes and choices."""
        digest = hashlib.sha256()
        for array in (*self.inputs.arrays(), self.targets, self.learned, self.held):
            digest.update(np.ascontiguousarray(array).data)
        return {
            "data_sha256": digest.hexdigest(), "classes": list(self.counts), "choices": asdict(self.choices),
            "encoder": asdict(self.sizes), "messages": {"training": len(self.learned), "validation": len(self.held)},
        }  # fmt: skip

    def branch(self, experts: Sequence[int] | None) -> Branch:
        """Return the encoder of texts and a head for both questions."""
        counts = tuple(count for count in self.counts if count)
        return Branch(partial(TextEncoder, self.sizes), partial(ClassHead, counts, self.sizes.dropout), experts)

    def attach(self, encoder: nn.Module) -> None:
        """Need nothing of it."""

    def start(self, encoder: nn.Module, head: nn.Module) -> None:
        """Weigh grams by how rare they are among the messages to learn, and take the scale of sentences from them."""
        assert isinstance(encoder, TextEncoder)
        rows = np.concatenate([self.inputs.words[self.learned].ravel(), self.inputs.letters[self.learned].ravel()])
        holders = np.bincount(rows, minlength=self.sizes.buckets + 1)
        rare = np.log((1 + len(self.learned)) / (1 + np.minimum(holders, len(self.learned)))) + 1
        encoder.bag.weight.copy_(torch.from_numpy(rare))
        if encoder.sentence is not None and self.inputs.sentences is not None:
            vectors = self.inputs.sentences[self.learned]
            encoder.sentence.mean.copy_(torch.from_numpy(vectors.mean(axis=0)))
            spread = vectors.std(axis=0)
            encoder.sentence.spread.copy_(torch.from_numpy(np.maximum(spread, SPREAD_MIN * spread.mean() or 1.0)))

    def steps(self, epoch: int, first: int, share: Share = WHOLE) -> Iterator[Sequence[Batch]]:
        """Give the steps of an epoch: every message once, in an order of its own, but for a rest below a batch."""
        size = self.choices.batch
        rows = np.random.default_rng([2, epoch]).permutation(self.learned)
        for step in range(first, self.steps_per_epoch):
            chosen = share.of(rows[step * size : (step + 1) * size])
            yield (Batch(self.inputs.rows(chosen).arrays(), self.targets[chosen], len(chosen)),)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropies of what is labelled, means over the whole batch."""
        intents, priorities = output.float().split(list(self.counts), dim=1)  # (n, k), (n, r)
        count, choices = len(output), self.choices
        known = batch.targets[:, 0] >= 0
        total = _cross_entropy(intents[known], batch.targets[known, 0], choices.smoothing) / count
        none = batch.targets[:, 0] == OUT_OF_SCOPE
        total = total - choices.scope_weight * intents[none].log_softmax(1).mean(1).sum() / count
        if self.counts[1]:
            told = batch.targets[:, 1] >= 0
            beside = _cross_entropy(priorities[told], batch.targets[told, 1], choices.smoothing)
            total = total + choices.priority_weight * beside / count
        return total

    def validate(self, predict: Predict) -> Validation:
        """Judge by held-back messages; `likelihood` is the geometric mean of what the right intents were given."""
        logits = np.concatenate([
            predict(self.inputs.rows(self.held[first : first + AT_ONCE]).arrays())
            for first in range(0, len(self.held), AT_ONCE)
        ])  # fmt: skip
        told = torch.from_numpy(logits[:, : self.counts[0]].astype(np.float64))
        classes = torch.from_numpy(self.targets[self.held, 0])
        accuracy = float((told.argmax(1) == classes).float().mean())
        likelihood = float(torch.exp(-functional.cross_entropy(told, classes)))
        return Validation({"likelihood": likelihood, "accuracy": accuracy})


def _cross_entropy(logits: Tensor, classes: Tensor, smoothing: float) -> Tensor:
    return functional.cross_entropy(logits, classes, label_smoothing=smoothing, reduction="sum")
