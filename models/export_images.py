"""Export a network on images: uint8 pixels (n, s, s, c) to logits (n, k) and evidence by place (n, k, g, g)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from models.moe.image import read_images
from models.moe.network import MoENetwork, cut_out
from models.onnx_export import Exported, ExportError, Form, Probes, checked, to_onnx

Pixels = NDArray[np.uint8]
BATCHES = (1, 3, 8)
# evidence is a mean of 256 places: its own size is larger
FORM = Form(
    lambda network, images: read_images(network, images)[:2], {"images": ["count"]}, ["logits", "evidence"],
    by_size=True,
)  # fmt: skip


def export_images(network: MoENetwork, pixels: Pixels, task: str | None = None) -> Exported:
    """Return the ONNX file of a task on images.

    Args:
        network: trained; it is copied to the CPU and left as it is.
        pixels: (images, s, s, c) real ones for the parity gate, at least one; flat, extreme and random ones are added.
        task: on images; may be left out where there is one only.

    Raises:
        ExportError: the file would be over 12 MB, or a logit or evidence differs by more than 1e-5 of its size.
    """
    if not len(pixels):
        raise ExportError("the parity gate got no images; give it at least one")
    network = cut_out(network, task).cpu().eval()
    model = to_onnx(network, FORM, [torch.from_numpy(pixels[:1]).repeat(3, 1, 1, 1)], {})
    return checked(network, model, FORM, probes(pixels))


def probes(pixels: Pixels) -> Probes:
    """Build the gate's inputs: real images in several batch sizes, random ones, hard edges, nothing at all."""
    chance = np.random.default_rng(0)
    shape = (max(BATCHES), *pixels.shape[1:])
    picked = pixels[chance.integers(0, len(pixels), shape[0])]
    real = {f"batch {n}": [picked[:n]] for n in BATCHES}
    others = {
        "random": chance.integers(0, 256, shape).astype(np.uint8),
        "black and white": np.where(chance.random(shape) < 0.5, 0, 255).astype(np.uint8),
        "flat": np.full(shape, 127, np.uint8),
    }
    return Probes(real | {name: [images] for name, images in others.items()}, real)
