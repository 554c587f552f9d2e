"""Writes what the defect task saw as pictures: photograph, heat map and, where there is one, the mask of the truth."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np

from connectors.images import ImageField, Pixels, decode_image, pixels_of
from connectors.log import Log
from models.defects import gray_png
from pipeline.topics import decisions_topic

FOLDER = "heat-maps"
PICTURES_MAX = 48
ROWS_READ_MAX = 100_000
FIELD = ImageField(size=128, channels=1)
GAP = 4  # white pixels between two pictures


def write_heat_maps(app: str, log: Log, folder: Path) -> Path | None:
    """Write PNGs of the first rejected photographs below `folder`, where their stream and masks are; None without any.

    Each is named after photograph, decision and defect, and shows photograph, heat map, and mask (black without a
    defect), side by side.
    """
    photos = {}
    for line in (folder / "photos.jsonl").read_bytes().splitlines():
        record = msgspec.json.decode(line)
        photos[record["photo_id"]] = record["image"]
    out, written = folder / FOLDER, 0
    for _, rows in log.read_rows(decisions_topic(app), 0, 0, ROWS_READ_MAX):
        if "heat_map" not in rows.schema.names:
            continue
        for row in rows.select(["event_id", "decision", "defect", "heat_map"]).to_pylist():
            if row["heat_map"] is None or written == PICTURES_MAX:
                continue
            out.mkdir(exist_ok=True)
            mask = folder / "masks" / f"{row['event_id']}.png"
            pictures = [pixels_of(each, FIELD)[:, :, 0] for each in (photos[row["event_id"]], row["heat_map"])]
            pictures.append(_mask(mask) if mask.exists() else np.zeros_like(pictures[0]))
            space = np.full((FIELD.size, GAP), 255, np.uint8)
            beside = np.hstack([pictures[0], space, pictures[1], space, pictures[2]])
            name = re.sub(r"\W", "-", f"{row['event_id']}-{row['decision']}-{row['defect']}")
            (out / f"{name}.png").write_bytes(gray_png(beside))
            written += 1
    return out if written else None


def _mask(path: Path) -> Pixels:
    return decode_image(path.read_bytes(), FIELD.size, FIELD.channels)[:, :, 0]
