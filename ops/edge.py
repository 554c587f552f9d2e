"""A defect bundle as a folder for a device at the line: two files and one module, for numpy and onnxruntime alone."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models import defects
from models.bundle import Bundle, BundleError
from models.defects import CARD, NETWORK, DefectCard, DefectModel

EDGE_BYTES_MAX = 3_000_000
PROBED_IMAGES = 64


@dataclass(frozen=True)
class Edge:
    """What was written.

    Attributes:
        folder: with moe.onnx, defect.json and defects.py.
        size_bytes, was_bytes: of the network there, and in the bundle.
        images: made-up ones on which both were compared.
        largest_difference: of a probability.
        changed: images whose class is another.
    """

    folder: Path
    size_bytes: int
    was_bytes: int
    images: int
    largest_difference: float
    changed: int


def write_edge(bundle: Bundle, folder: Path) -> Edge:
    """Write the network in 8 bits, what belongs to it, and the module that runs them.

    Raises:
        BundleError: it is no bundle of a defect task, or too large.
    """
    from models.edge import in_eight_bits

    card = DefectCard.from_json(bundle.part(CARD))
    was = bundle.part(NETWORK)
    small = in_eight_bits(was)
    if len(small) > EDGE_BYTES_MAX:
        raise BundleError(
            f"the network of bundle {bundle.id} has {len(small):,} bytes in 8 bits, more than {EDGE_BYTES_MAX:,}; "
            "train a smaller one"
        )
    chance = np.random.default_rng(0)
    shape = (PROBED_IMAGES, card.size, card.size, card.channels)
    light = chance.integers(60, 180, (PROBED_IMAGES, 1, 1, 1)) + chance.normal(0, 25, shape)
    images = np.clip(light, 0, 255).astype(np.uint8)
    before, after = (DefectModel(network, card).score(images).classes for network in (was, small))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NETWORK).write_bytes(small)
    (folder / CARD).write_bytes(card.to_json())
    (folder / "defects.py").write_text(inspect.getsource(defects))
    return Edge(
        folder, len(small), len(was), PROBED_IMAGES, float(np.abs(before - after).max()),
        int((before.argmax(1) != after.argmax(1)).sum()),
    )  # fmt: skip
