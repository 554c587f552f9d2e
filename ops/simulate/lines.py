"""JSON lines from columns, without a step per line.

Every part of a line is padded with NUL to a fixed width, so that a block of lines is one array; the padding is removed
from the whole block at once. About 1 ns a byte.
"""

import gzip
import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

Texts = NDArray[np.bytes_]


def _table(base: int, digits: int) -> Texts:
    """Return (base**digits,) all numbers of so many digits, with leading zeros."""
    powers = base ** np.arange(digits - 1, -1, -1)
    each = np.arange(base**digits)[:, None] // powers % base
    return np.frombuffer(b"0123456789abcdef", np.uint8)[each].view(f"S{digits}").ravel()


_PADDED_2, _PADDED_4, _HEX_4 = _table(10, 2), _table(10, 4), _table(16, 4)
_PLAIN_5 = np.char.lstrip(_table(10, 5), b"0")
_PLAIN_5[0] = b"0"


def padded(values: NDArray[np.integer], digits: int) -> list[Texts]:
    """Return the parts of (lines,) integers from 0 to below 10**digits, with leading zeros; digits is a multiple of 4.

    >>> [part.tolist() for part in padded(np.array([42]), 8)]
    [[b'0000'], [b'0042']]
    """
    return [_PADDED_4[values // 10**power % 10_000] for power in range(digits - 4, -1, -4)]


def timestamps(ts_ms: NDArray[np.int64]) -> list[Texts]:
    """Return the parts of (lines,) integers of exactly 13 digits."""
    return [_PLAIN_5[ts_ms // 10**8], *padded(ts_ms % 10**8, 8)]


def money(cents: NDArray[np.integer]) -> list[Texts | bytes]:
    """Return the parts of (lines,) amounts from 0.00 to 99999.99."""
    return [_PLAIN_5[cents // 100], b".", _PADDED_2[cents % 100]]


def hexadecimal(values: NDArray[np.uint32]) -> list[Texts]:
    """Return the parts of (lines,) numbers of 32 bits as 8 hexadecimal digits."""
    return [_HEX_4[values >> np.uint32(16)], _HEX_4[values & np.uint32(0xFFFF)]]


class Block:
    """Lines made of parts: bytes that all lines share, and (lines,) texts. Parts hold no NUL and end the line."""

    def __init__(self, parts: Sequence[Texts | bytes], lines: int) -> None:
        """Lay the parts out; all arrays are (lines,)."""
        joined = _join_constants(parts)
        kinds = [f"S{len(part)}" if isinstance(part, bytes) else part.dtype.str for part in joined]
        self._rows = np.empty(lines, np.dtype([(f"f{number}", kind) for number, kind in enumerate(kinds)]))
        for number, part in enumerate(joined):
            self._rows[f"f{number}"] = part

    def text(self, first: int = 0, end: int | None = None) -> bytes:
        """Return the lines from `first` to before `end`."""
        return self._rows[first:end].tobytes().translate(None, b"\x00")


def _join_constants(parts: Sequence[Texts | bytes]) -> list[Texts | bytes]:
    joined: list[Texts | bytes] = []
    for part in parts:
        if isinstance(part, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


class LinesFile:
    """A file of lines that appears under its name when it is whole, and not at all if writing fails.

    Attributes:
        path: its name; gzip if that ends in `.gz`, with the same bytes each time.
        lines: how many were written.
    """

    def __init__(self, path: Path) -> None:
        """Begin the file beside `path`; OSError if that is impossible."""
        self.path = path
        self.lines = 0
        self._digest = hashlib.sha256()
        self._part = path.with_name(path.name + ".part")
        self._raw = self._part.open("wb")
        self._file: IO[bytes] | gzip.GzipFile = self._raw
        if path.suffix == ".gz":
            self._file = gzip.GzipFile("", "wb", compresslevel=1, fileobj=self._raw, mtime=0)

    def write(self, text: bytes, lines: int) -> None:
        """Append that many lines."""
        self._file.write(text)
        self._digest.update(text)
        self.lines += lines

    @property
    def sha256(self) -> str:
        """Return the digest of the lines so far, before compression, in hex."""
        return self._digest.hexdigest()

    def __enter__(self) -> "LinesFile":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the file in its place, or remove what there is if something failed."""
        try:
            if kind is None:
                self._file.close()
        finally:
            self._raw.close()
            if kind is not None:
                self._part.unlink(missing_ok=True)
        if kind is None:
            self._part.replace(self.path)
