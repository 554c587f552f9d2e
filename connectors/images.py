"""Images in fields: text that holds one or says where it lies, to pixels, bounded at every step.

A value is base64 (plain, or as a `data:` URL), or a place: a path or a URL that fsspec knows. Base64 has neither "."
nor ":", so that what has one is a place. Places are read only below the roots that the field declares: what a producer
writes must not make a worker read any file of its machine. An image inside a record is judged with the record, by its
bytes alone; a place is judged when it is read, and what lies there may have changed since.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectors.errors import ConnectorError, SchemaError

Pixels = NDArray[np.uint8]
FORMATS = ("PNG", "JPEG", "BMP")
SIZE_MIN, SIZE_MAX = 32, 1024
BYTES_MAX = 8 << 20  # of an image as it is stored
PIXELS_MAX = 1 << 24  # of an image as it is told in its first bytes, before anything is decoded
SHOWN_MAX = 80  # characters of a place in a message
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64,", re.IGNORECASE)
_NOT_PLAIN = re.compile(r"::|\\|[\x00-\x1f]|%2e|(^|/)\.\.(/|$)", re.IGNORECASE)
_FILE = "file://"  # on this machine: a link below a root must not lead out of it either
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::|:)")


class ImageError(ConnectorError):
    """An image that cannot be read; the message is the cause, without the image's bytes."""


@dataclass(frozen=True)
class ImageField:
    """An image in a field of a stream, and how it is read: `fields={"image": ImageField(size=128, channels=1)}`.

    Attributes:
        size: pixels along each side that the network sees; other images are scaled. A multiple of 16.
        channels: 1 for brightness, 3 for colours.
        roots: folders and URLs below which places may lie, for example "s3://bucket/photos"; none accepts images inside
            records alone.
        optional: missing and null are both accepted.
    """

    size: int = 128
    channels: int = 1
    roots: tuple[str, ...] = ()
    optional: bool = False

    def __post_init__(self) -> None:
        """Refuse what no network of ours could see."""
        if self.size % 16 or not SIZE_MIN <= self.size <= SIZE_MAX:
            raise SchemaError(f"image size is {self.size}; choose a multiple of 16 from {SIZE_MIN} to {SIZE_MAX}")
        if self.channels not in (1, 3):
            raise SchemaError(f"image channels are {self.channels}; choose 1 (brightness) or 3 (colours)")
        object.__setattr__(self, "roots", tuple(self.roots))


def pixels_of(value: str, field: ImageField) -> Pixels:
    """Return (size, size, channels) pixels of a value.

    Raises:
        ImageError: it is no image, too large, or lies where the field does not allow.
    """
    return decode_image(bytes_of(value, field), field.size, field.channels)


def is_place(value: str) -> bool:
    """Whether a value says where the image lies, instead of holding it."""
    return not _DATA_URL.match(value) and ("." in value or ":" in value)


def check_value(value: str, field: ImageField) -> None:
    """Judge a value by itself: an image inside it is decoded, a place is only looked at.

    Raises:
        ImageError: as of `pixels_of`; never about what lies at a place.
    """
    if is_place(value):
        _allowed(value, field.roots)
    else:
        pixels_of(value, field)


def bytes_of(value: str, field: ImageField) -> bytes:
    """Return the stored bytes of a value.

    Raises:
        ImageError: it is not base64, too large, not allowed or not there.
    """
    if is_place(value):
        return _read(_allowed(value, field.roots))
    head = _DATA_URL.match(value)
    text = value[head.end() :] if head else value
    if len(text) > BYTES_MAX * 4 // 3 + 4:
        raise ImageError(f"the image has more than {BYTES_MAX:,} bytes")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # the second for text that is not ASCII
        raise ImageError("the image is neither base64 nor a place with a file name") from None


def decode_image(data: bytes, size: int, channels: int) -> Pixels:
    """Decode a PNG, JPEG or BMP and scale it; returns (size, size, channels) uint8.

    Brightness of 16 bits keeps its upper 8; transparency is ignored.

    Raises:
        ImageError: it is none of these, broken, or would be too large decoded.
    """
    from PIL import Image  # late: an app without images does not wait for it

    if len(data) > BYTES_MAX:
        raise ImageError(f"the image has {len(data):,} bytes, more than {BYTES_MAX:,}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            wide, high = image.size
            if wide * high > PIXELS_MAX or not wide or not high:
                raise ImageError(f"the image is {wide} by {high}, more than {PIXELS_MAX:,} pixels")
            image.draft("L" if channels == 1 else "RGB", (size, size))  # a JPEG decodes to less where that suffices
            seen: Any = image
            if image.mode.startswith("I"):
                seen = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
            seen = seen.convert("L" if channels == 1 else "RGB")
            if seen.size != (size, size):
                seen = seen.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
            return np.asarray(seen, np.uint8).reshape(size, size, channels).copy()
    except ImageError:
        raise
    except Exception as problem:  # its decoders share no base class of errors, and the bytes are anybody's
        raise ImageError(f"the image cannot be decoded: {_in_short(problem)}") from None


def _in_short(problem: Exception) -> str:
    if type(problem).__name__ == "UnidentifiedImageError":
        return f"it is none of {', '.join(FORMATS)}"
    said = re.sub(r"<[^>]*>", "", str(problem)) or type(problem).__name__  # without addresses of objects
    return said[:SHOWN_MAX]


def _allowed(value: str, roots: tuple[str, ...]) -> str:
    """Return the place that a value names, if it lies below a root."""
    shown = value if len(value) <= SHOWN_MAX else value[:SHOWN_MAX] + "..."
    if not roots:
        raise ImageError(f"the image is a place, {shown}, and its field declares no roots to read from")
    if _NOT_PLAIN.search(value):
        raise ImageError(f"the image is at {shown!r}, which is no plain place; write it without '..' and '::'")
    value = value.removeprefix(_FILE)
    for root in roots:
        base = root.removeprefix(_FILE).rstrip("/")
        if _SCHEME.match(value) or _SCHEME.match(base):
            if value.startswith(f"{base}/"):
                return value
        else:
            place = Path(value) if value.startswith("/") else Path(base) / value
            if place.resolve().is_relative_to(Path(base).resolve()):
                return str(place)
    raise ImageError(f"the image is at {shown}, which is not below {', '.join(roots)}")


def _read(place: str) -> bytes:
    import fsspec

    try:
        with fsspec.open(place, "rb") as file:
            data = file.read(BYTES_MAX + 1)
    except Exception as problem:  # each store has errors of its own
        raise ImageError(f"the image {place[:SHOWN_MAX]} cannot be read: {_in_short(problem)}") from None
    if len(data) > BYTES_MAX:
        raise ImageError(f"the image {place[:SHOWN_MAX]} has more than {BYTES_MAX:,} bytes")
    return data
