"""Photographs of steel surfaces as a stream, what inspectors found on them later, and masks of where."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ops.simulate.settings import MONDAY_2026_MS, SimulationError
from ops.simulate.surfaces import CLASSES, SOUND, draw_surface

PHOTOS_MAX = 1_000_000
JPEG_QUALITY = 92
INSPECTED_MIN_MS, INSPECTED_MAX_MS = 5 * 60_000, 45 * 60_000  # after the photograph


@dataclass(frozen=True)
class PhotoSettings:
    """The stream to make. The same settings give the same bytes, with the same versions of numpy and Pillow.

    Attributes:
        photos: how many.
        defect_share: share of them with a defect; scratches, pits and inclusions are equally many.
        broken_share: share of photographs that were cut off on their way.
        every_ms: between two photographs.
        size: pixels along a side.
        seed: of everything random.
        start_ms: of the first photograph, milliseconds since the epoch.
    """

    photos: int = 2_000
    defect_share: float = 0.5
    broken_share: float = 0.002
    every_ms: int = 30_000
    size: int = 128
    seed: int = 7
    start_ms: int = MONDAY_2026_MS

    def __post_init__(self) -> None:
        """Check every setting; SimulationError names the first that cannot be used."""
        bounds = (
            ("photos", 1, PHOTOS_MAX), ("defect_share", 0, 1), ("broken_share", 0, 1), ("every_ms", 1, 10**9),
            ("size", 32, 512), ("seed", 0, 2**63 - 1),
        )  # fmt: skip
        for name, least, most in bounds:
            value = getattr(self, name)
            if not least <= value <= most:
                raise SimulationError(f"{name} is {value}; choose between {least} and {most}")


@dataclass(frozen=True)
class PhotoSummary:
    """What was written.

    Attributes:
        photos_path, labels_path: the two files.
        masks_path: folder with `PHOTO_ID.png` for each photograph with a defect: white where it is.
        by_class: photographs of each class.
        broken: photographs that were cut off.
        photos_sha256: of the photographs' lines, in hex.
    """

    photos_path: Path
    labels_path: Path
    masks_path: Path
    by_class: dict[str, int]
    broken: int
    photos_sha256: str


def simulate_photos(
    settings: PhotoSettings, out: Path, progress: Callable[[int, int], None] | None = None
) -> PhotoSummary:
    """Write `photos.jsonl`, `inspections.jsonl` and `masks/` into the folder `out`, which is made if need be.

    Raises:
        SimulationError: `out` cannot be a folder.
    """
    from PIL import Image

    try:
        (out / "masks").mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise SimulationError(f"{out} cannot be a folder ({cause.strerror}); choose another --out") from None
    order = np.random.default_rng([settings.seed, 0])
    shares = [1 - settings.defect_share, *[settings.defect_share / (len(CLASSES) - 1)] * (len(CLASSES) - 1)]
    kinds = order.choice(len(CLASSES), settings.photos, p=shares)
    broken = order.random(settings.photos) < settings.broken_share
    known_ms = settings.start_ms + settings.every_ms * np.arange(settings.photos)
    known_ms = known_ms + order.integers(INSPECTED_MIN_MS, INSPECTED_MAX_MS, settings.photos)
    digest = hashlib.sha256()
    photos, labels = out / "photos.jsonl", out / "inspections.jsonl"
    with photos.open("wb") as file:
        for number, kind in enumerate(kinds):
            # each photograph has a seed of its own: more of them, or of another class before it, change nothing in it
            surface = draw_surface(CLASSES[kind], np.random.default_rng([settings.seed, 1, number]), settings.size)
            stored = io.BytesIO()
            Image.fromarray(surface.pixels).save(stored, "JPEG", quality=JPEG_QUALITY)
            data = stored.getvalue()[: stored.tell() // 2] if broken[number] else stored.getvalue()
            record = {
                "photo_id": _id(number),
                "ts": settings.start_ms + settings.every_ms * number,
                "line": f"L{1 + number % 4}",
                "image": base64.b64encode(data).decode(),
            }
            line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
            digest.update(line)
            file.write(line)
            if surface.defect != SOUND:
                Image.fromarray(surface.mask.astype(np.uint8) * 255).save(out / "masks" / f"{_id(number)}.png")
            if progress is not None:
                progress(number + 1, settings.photos)
    with labels.open("wb") as file:
        for number in np.argsort(known_ms, kind="stable"):
            told = {
                "photo_id": _id(number), "inspected_at": int(known_ms[number]), "defect": CLASSES[kinds[number]],
            }  # fmt: skip
            file.write(json.dumps(told, separators=(",", ":")).encode() + b"\n")
    counts = np.bincount(kinds, minlength=len(CLASSES))
    return PhotoSummary(
        photos, labels, out / "masks", dict(zip(CLASSES, counts.tolist(), strict=True)), int(broken.sum()),
        digest.hexdigest(),
    )  # fmt: skip


def _id(number: int) -> str:
    return f"s{number:08d}"
