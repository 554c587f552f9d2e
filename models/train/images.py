"""Training on images: pixels and classes alone say what to learn; where a defect is, nobody says.

Each step sees images that were mirrored, turned, moved, relit and mixed anew. The evidence by place is trained beside
the head, with the same classes, pooled over the image.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.moe.image import ImageEncoder, ImageSizes, image_branch, pooled_evidence
from models.moe.network import Branch
from models.train.settings import above_zero
from models.train.task_data import WHOLE, Batch, Packed, Predict, Share, Validation

Pixels = NDArray[np.uint8]
AT_ONCE = 64  # images in a forward pass that is not learned from


@dataclass(frozen=True)
class ImageChoices:
    """How images are learned.

    Attributes:
        batch: images in a step.
        evidence_weight: weight of the loss of the evidence by place.
        smoothing: share of a label that is spread over all classes.
        mixup: parameter of the beta distribution that images are mixed by; 0 mixes none (arXiv:1710.09412).
        quarter_turns: whether images mean the same after a quarter turn; they always do mirrored.
        weight: of the loss beside other tasks'.
    """

    batch: int = 32
    evidence_weight: float = 0.5
    smoothing: float = 0.1
    mixup: float = 0.2
    quarter_turns: bool = True
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        above_zero(self, may_be_zero=("evidence_weight", "smoothing", "mixup", "quarter_turns"))


class ImageData:
    """A `TaskData` of images and their classes.

    Args:
        pixels: (images, s, s, c) uint8.
        classes: (images,) from 0 to below `count`.
        count: how many classes there are.
        held: (images,) which validate instead of training, at least one.
        choices: how to learn.
        sizes: of the encoder.

    Raises:
        ValueError: arrays that do not fit each other, or fewer images to learn than one batch.
    """

    figure = "likelihood"

    def __init__(
        self,
        pixels: Pixels,
        classes: NDArray[np.int64],
        count: int,
        held: NDArray[np.bool_],
        choices: ImageChoices,
        sizes: ImageSizes,
    ) -> None:
        if pixels.ndim != 4 or pixels.dtype != np.uint8 or not len(pixels) == len(classes) == len(held):
            raise ValueError(
                f"pixels are {pixels.dtype} {pixels.shape}, classes {classes.shape}, held {held.shape}; "
                "give uint8 (n, s, s, c) and n of the others"
            )
        self.learned, self.held = np.flatnonzero(~held), np.flatnonzero(held)
        if len(self.learned) < choices.batch or not len(self.held):
            raise ValueError(
                f"there are {len(self.learned)} images to learn and {len(self.held)} to validate; "
                f"give at least {choices.batch}, one batch, and 1"
            )
        self.pixels, self.classes, self.count = pixels, np.asarray(classes, np.int64), count
        self.choices, self.sizes, self.weight = choices, sizes, choices.weight
        self.steps_per_epoch = len(self.learned) // choices.batch

    def changed(self, choices: Mapping[str, Any]) -> ImageData:
        """Return the same images with some choices changed."""
        other = copy.copy(self)
        other.choices = replace(self.choices, **choices)
        return other

    @classmethod
    def unpacked(cls, packed: Packed) -> ImageData:
        """Return what learns as the data that was packed; nobody validates with it."""
        arrays, told = packed.arrays, packed.told
        choices, sizes = ImageChoices(**told["choices"]), ImageSizes(**told["sizes"])
        made = cls.__new__(cls)
        made.pixels, made.classes, made.learned = arrays["pixels"], arrays["classes"], arrays["learned"]
        made.held, made.count, made.choices, made.sizes = np.zeros(0, np.int64), told["count"], choices, sizes
        made.weight, made.steps_per_epoch = choices.weight, len(made.learned) // choices.batch
        return made

    def packed(self) -> Packed:
        """Pack images, classes, and which are learned."""
        told = {"count": self.count, "choices": asdict(self.choices), "sizes": asdict(self.sizes)}
        return Packed("images", {"pixels": self.pixels, "classes": self.classes, "learned": self.learned}, told)

    def identity(self) -> dict[str, Any]:
        """Tell data, classes and choices."""
        digest = hashlib.sha256(np.ascontiguousarray(self.pixels).data)
        for array in (self.classes, self.held):
            digest.update(np.ascontiguousarray(array).data)
        return {
            "data_sha256": digest.hexdigest(), "classes": self.count, "choices": asdict(self.choices),
            "encoder": asdict(self.sizes), "images": {"training": len(self.learned), "validation": len(self.held)},
        }  # fmt: skip

    def branch(self, experts: Sequence[int] | None) -> Branch:
        """Return the encoder of images and a linear head."""
        return image_branch(self.pixels.shape[3], self.count, self.sizes, experts)

    def attach(self, encoder: nn.Module) -> None:
        """Keep the encoder at hand: the loss wants its evidence, too. Convolutions are quicker with channels last."""
        assert isinstance(encoder, ImageEncoder)
        self._encoder = encoder.to(memory_format=torch.channels_last)

    def start(self, encoder: nn.Module, head: nn.Module) -> None:
        """Begin with what was drawn."""

    def steps(self, epoch: int, first: int, share: Share = WHOLE) -> Iterator[Sequence[Batch]]:
        """Give the steps of an epoch: every image once, in an order of its own, but for a rest smaller than a batch."""
        size = self.choices.batch
        rows = np.random.default_rng([1, epoch]).permutation(self.learned)
        for step in range(first, self.steps_per_epoch):
            yield (self._batch(share.of(rows[step * size : (step + 1) * size])),)

    def _batch(self, rows: NDArray[np.int64]) -> Batch:
        choices = self.choices
        images = augment(torch.from_numpy(self.pixels[rows]), choices.quarter_turns)
        target = functional.one_hot(torch.from_numpy(self.classes[rows]), self.count).float()  # (n, k)
        if choices.mixup:
            share = float(torch.distributions.Beta(choices.mixup, choices.mixup).sample())
            other = torch.randperm(len(rows))
            images = share * images + (1 - share) * images[other]
            target = share * target + (1 - share) * target[other]
        target = target * (1 - choices.smoothing) + choices.smoothing / self.count
        return Batch(images, target, len(rows))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of the head, and that of the evidence."""
        evidence = self._encoder.evidence_of_last
        assert evidence is not None
        beside = _cross_entropy(pooled_evidence(evidence), batch.targets)
        return _cross_entropy(output, batch.targets) + self.choices.evidence_weight * beside

    def validate(self, predict: Predict) -> Validation:
        """Judge by the held-back images; `likelihood` is the geometric mean of what the right classes were given."""
        logits = torch.from_numpy(predict(self.pixels[self.held], at_once=AT_ONCE))
        classes = torch.from_numpy(self.classes[self.held])
        accuracy = float((logits.argmax(1) == classes).float().mean())
        likelihood = float(torch.exp(-functional.cross_entropy(logits.double(), classes)))
        return Validation({"likelihood": likelihood, "accuracy": accuracy})


def augment(images: Tensor, quarter_turns: bool) -> Tensor:
    """Mirror, turn, move, stretch and relight (n, s, s, c) uint8 images; returns float of the same shape and range."""
    x = images.permute(0, 3, 1, 2).float()  # (n, c, s, s)
    n = len(x)
    x = torch.where(_coin(n), x.flip(2), x)
    x = torch.where(_coin(n), x.flip(3), x)
    if quarter_turns:
        x = torch.where(_coin(n), x.transpose(2, 3), x)
    angle, zoom, shift = torch.randn(n) * 0.08, torch.exp(torch.randn(n) * 0.08), torch.randn(n, 2) * 0.06
    rows = [
        torch.stack([angle.cos() * zoom, -angle.sin() * zoom, shift[:, 0]], 1),
        torch.stack([angle.sin() * zoom, angle.cos() * zoom, shift[:, 1]], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    x = functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    contrast, light = torch.exp(torch.randn(n, 1, 1, 1) * 0.1), torch.randn(n, 1, 1, 1) * 10
    return ((x - 127.5) * contrast + 127.5 + light).clamp(0, 255).permute(0, 2, 3, 1)


def _coin(n: int) -> Tensor:
    return torch.rand(n, 1, 1, 1) < 0.5


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * functional.log_softmax(logits.float(), dim=1)).sum(1).mean()
