"""A defect bundle as a folder for a device at the line: two files and one module, for numpy and onnxruntime alone."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models import defects
from models.bundle import Bundle, BundleError
from models.defects import CARD, NETWORK, DefectCard, DefectModel, open_folder
from ops.training.contents import Contents
from ops.training.found import FigurePairs

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


def judge_edge(bundle: Bundle, folder: Path, photos: Contents) -> FigurePairs:
    """Judge labelled images by the bundle and by what was written of it.

    Args:
        bundle: that `folder` was made of.
        folder: from `write_edge`.
        photos: with a label each that the bundle knows.

    Returns:
        figure -> that of the bundle and that of the folder; how many change their class is of the folder alone.

    Raises:
        BundleError: an image has a label that the bundle does not know, or none has a label.
    """
    from ops.training.defect_training import figures

    card = DefectCard.from_json(bundle.part(CARD))
    unknown = sorted({str(label) for label in photos.labels["label"]} - set(card.classes))
    if unknown or not len(photos):
        what = f"labels that bundle {bundle.id} does not know: {', '.join(unknown)}" if unknown else "no label"
        raise BundleError(f"the images to judge by have {what}; give other files, or another time to begin at")
    classes = np.array([card.classes.index(str(label)) for label in photos.labels["label"]], np.int64)
    was, small = (
        model.score(photos.values) for model in (DefectModel(bundle.part(NETWORK), card), open_folder(folder))
    )
    before, after = (figures(scores, classes, card) for scores in (was, small))
    found: FigurePairs = {name: (value, after[name]) for name, value in before.items()}
    return found | {"classes changed": (0, int((was.classes.argmax(1) != small.classes.argmax(1)).sum()))}


def write_edge(bundle: Bundle, folder: Path) -> Edge:
    """Write the network in 8 bits, what belongs to it, and the module that runs them.

    Raises:
        BundleError: it is no bundle of a defect task, or too large.
    """
    from models.edge import in_eight_bits

    if CARD not in bundle.parts:
        raise BundleError(
            f"bundle {bundle.id} is of {bundle.meta.task!r}, which looks at no images; only the network of a task on "
            "images is written for devices"
        )
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
