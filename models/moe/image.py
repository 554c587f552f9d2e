"""Pixels to tokens, inside the graph: a conv stem, residual stages and a small feature pyramid.

    pixels (n, s, s, c) --pyramid--> tokens (n, 1 + r * r, d) --trunk, one choice of experts per image--> head (n, k)
                               +--> evidence for each class by place (n, k, g, g), from which heat maps are drawn

Letters: n images of size s by s with c channels, w the stem's width, p width of the pyramid, d width of a token,
k classes, g = s / 8 cells along a side of the fine map, r = 4 cells along a side of the tokens' grid.
Reading order: read_images, ImageEncoder.read, then Pyramid, Residual.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.moe.network import Branch, MoENetwork
from models.moe.router import Routing
from models.moe.settings import MoESettings

GRID = 4  # r: tokens along a side of an image; 16 in all, and the summary


@dataclass(frozen=True)
class ImageSizes:
    """Sizes of the image encoder. The defaults read 128 by 128 pixels in about 3 ms on one core.

    Attributes:
        stem: w, channels after the stem; the stages after it have w, 2w and 4w.
        pyramid: p, channels of the pyramid's maps.
    """

    stem: int = 32
    pyramid: int = 64

    def __post_init__(self) -> None:
        for name in ("stem", "pyramid"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose a number above zero")


def image_branch(channels: int, classes: int, sizes: ImageSizes, experts: Sequence[int] | None = None) -> Branch:
    """Tell the parts of a task on images: (n, s, s, c) uint8 to (n, k) logits, routed by the whole image."""
    return Branch(partial(ImageEncoder, channels, classes, sizes), partial(ImageHead, classes), experts, whole=True)


def read_images(network: MoENetwork, images: Tensor, task: str | None = None) -> tuple[Tensor, Tensor, list[Routing]]:
    """Give (n, k) logits, (n, k, g, g) evidence by place, and while training each block's routing.

    The logits are those of `network(images, task)`; the evidence comes from the same pass through the encoder.
    """
    place = network.place(task)
    tokens, evidence = network.encoders[place].read(images)  # (n, 1 + r * r, d), (n, k, g, g)
    summary, routings = network.trunk(tokens, network.tasks[place], None, True)  # (n, d)
    return network.heads[place](summary), evidence, routings


def pooled_evidence(evidence: Tensor) -> Tensor:
    """Sum up (n, k, g, g) evidence as (n, k) logits: log(mean(exp(evidence))), between mean and maximum.

    Source: Pinheiro, Collobert 2015 (arXiv:1411.6228), equation 4, with r = 1.
    """
    cells = evidence.float().flatten(2)  # (n, k, g * g)
    return cells.logsumexp(2) - math.log(cells.shape[2])


class ImageHead(nn.Module):
    """A linear reading of the summary."""

    def __init__(self, classes: int, settings: MoESettings) -> None:
        super().__init__()
        self.dropout = nn.Dropout(settings.dropout)
        self.weigh = nn.Linear(settings.width, classes)

    def forward(self, summary: Tensor) -> Tensor:  # (n, d)
        """Give (n, k) logits."""
        return self.weigh(self.dropout(summary))

    def served(self, logits: Tensor) -> Tensor:
        """Give (n, k) logits in fp32."""
        return logits.float()


class ImageEncoder(nn.Module):
    """Images to a summary token and one token per cell of a 4 by 4 grid; beside them, evidence for each class by place.

    The summary begins as mean and maximum of the last stage, so that the trunk only has to add to what a plain
    convolutional network knows; the maximum sees what is small. Evidence is a linear reading of the fine map: pooled
    over the image it is a classifier of its own, trained beside the head, and its value at a cell says how much that
    cell spoke for a class.
    Sources: class activation maps, Zhou et al. 2016 (arXiv:1512.04150), equations 1 and 2; pooling, see
    `pooled_evidence`.
    """

    def __init__(self, channels: int, classes: int, sizes: ImageSizes, settings: MoESettings) -> None:
        super().__init__()
        width = settings.width
        self.pyramid = Pyramid(channels, sizes)
        self.evidence = nn.Conv2d(sizes.pyramid, classes, 1)
        self.to_tokens = nn.Linear(2 * sizes.pyramid, width)
        self.to_summary = nn.Linear(8 * sizes.stem, width)
        self.place = nn.Parameter(torch.randn(GRID * GRID, width) * 0.1)
        self.evidence_of_last: Tensor | None = None  # while training, for the loss

    def forward(self, images: Tensor) -> tuple[Tensor, None]:  # (n, s, s, c) of 0 to 255
        """Give (n, 1 + r * r, d) tokens; none of them is padding."""
        tokens, evidence = self.read(images)
        self.evidence_of_last = evidence if self.training else None
        return tokens, None

    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give (n, 1 + r * r, d) tokens and (n, k, g, g) evidence."""
        x = (images.permute(0, 3, 1, 2).float() - 127.5) / 64  # (n, c, s, s), mostly within -2 and 2
        fine, coarse, last = self.pyramid(x)  # (n, p, g, g), (n, p, g / 2, g / 2), (n, 4w, g / 2, g / 2)
        cells = torch.cat([_to_grid(fine), _to_grid(coarse)], dim=1)  # (n, 2p, r, r)
        tokens = self.to_tokens(cells.flatten(2).transpose(1, 2)) + self.place  # (n, r * r, d)
        summary = self.to_summary(torch.cat([last.mean((2, 3)), last.amax((2, 3))], dim=1)).unsqueeze(1)  # (n, 1, d)
        return torch.cat([summary, tokens], dim=1), self.evidence(fine)


class Pyramid(nn.Module):
    """A stem, four residual stages, and one step down again: the coarse map tells the fine one what it is part of.

    Source: Lin et al. 2017 (arXiv:1612.03144), section 3, with two levels.
    """

    def __init__(self, channels: int, sizes: ImageSizes) -> None:
        super().__init__()
        w, p = sizes.stem, sizes.pyramid
        self.stem = nn.Sequential(nn.Conv2d(channels, w, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(w))
        self.quarter = Residual(w, w, stride=2)  # s / 4
        self.eighth = nn.Sequential(Residual(w, 2 * w, stride=2), Residual(2 * w, 2 * w))
        self.sixteenth = nn.Sequential(Residual(2 * w, 4 * w, stride=2), Residual(4 * w, 4 * w))
        self.side = nn.Conv2d(2 * w, p, 1)
        self.down = nn.Conv2d(4 * w, p, 1)
        self.smooth = nn.Sequential(nn.Conv2d(p, p, 3, padding=1, bias=False), nn.BatchNorm2d(p), nn.ReLU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # (n, c, s, s)
        """Give the fine map (n, p, s / 8, s / 8), the coarse one and the last stage at s / 16."""
        x = self.eighth(self.quarter(functional.relu(self.stem(x))))  # (n, 2w, s / 8, s / 8)
        last = self.sixteenth(x)  # (n, 4w, s / 16, s / 16)
        coarse = self.down(last)  # (n, p, s / 16, s / 16)
        wide = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return self.smooth(self.side(x) + wide), coarse, last


class Residual(nn.Module):
    """relu(x + f(x)) with f two convolutions of 3 by 3. Source: He et al. 2016 (arXiv:1512.03385), figure 2."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        nn.init.zeros_(self.body[-1].weight)  # a block begins as its shortcut
        self.shortcut = nn.Sequential()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride), nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:  # (n, channels, a, a)
        """Give (n, out, a / stride, a / stride)."""
        return functional.relu(self.shortcut(x) + self.body(x))


def _to_grid(cells: Tensor) -> Tensor:
    """Average (n, p, a, a) over a grid of r by r: (n, p, r, r)."""
    side = cells.shape[-1] // GRID
    return functional.avg_pool2d(cells, side)
