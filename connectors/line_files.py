"""Files of lines, plain or gzip: read in blocks of whole lines."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kernels.lines import line_ends

LINE_BYTES_KEPT = 16 << 20  # of a longer line only so much is kept: it is invalid anyhow

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class LineFile:
    """One file, read once.

    Attributes:
        position: how many bytes of the file on disk have been read.
    """

    def __init__(self, path: Path, block_bytes: int) -> None:
        """Open it; raises OSError."""
        self._raw = path.open("rb", buffering=0)
        compressed = path.suffix.lower() == ".gz"
        self._file: Any = gzip.GzipFile(fileobj=self._raw) if compressed else self._raw  # BinaryIO lacks readinto
        self._block_bytes = block_bytes

    @property
    def position(self) -> int:
        """Return how far the file on disk has been read."""
        return self._raw.tell()

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Read uint8 blocks that end where a line ends; the last line of the file may lack its line break.

        Raises:
            OSError, EOFError: the file cannot be read, or is not whole gzip.
        """
        carried, first = np.zeros(0, np.uint8), True
        while True:
            block = np.empty(carried.size + self._block_bytes, np.uint8)
            block[: carried.size] = carried
            size = self._read(memoryview(block.data)[carried.size :])
            if size == 0:
                break
            block = block[: carried.size + size]
            if first and block.size >= 3:
                first = False
                if block[:3].tobytes() == _BYTE_ORDER_MARK:
                    block = block[3:]
            end = _last_line_end(block)
            carried = block[end:]
            if carried.size > LINE_BYTES_KEPT:
                carried = carried[:LINE_BYTES_KEPT]
            if end:
                yield block[:end]
        if carried.size:
            yield carried

    def _read(self, target: memoryview) -> int:
        size = 0
        while size < len(target):
            got = self._file.readinto(target[size:])
            if not got:
                break
            size += got
        return size

    def __enter__(self) -> "LineFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._raw.close()


def lines_of(block: NDArray[np.uint8]) -> pa.LargeBinaryArray:
    r"""Cut a block (bytes,) uint8 into its lines, each with its line break; lines of "\n" or "\r\n" alone are left out.

    Nothing is copied unless there are such lines.
    """
    ends = line_ends(block)
    if not ends.size or ends[-1] != block.size:
        ends = np.append(ends, block.size)
    offsets = np.concatenate([[0], ends]) if block.size else np.zeros(1, np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(block)]
    lines = pa.Array.from_buffers(pa.large_binary(), offsets.size - 1, buffers)
    sizes = np.diff(offsets)
    if sizes.size and sizes.min() <= 2:
        starts = offsets[:-1]
        blank = (sizes <= 2) & (block[offsets[1:] - 1] == 10) & ((sizes == 1) | (block[starts] == 13))
        if blank.any():
            lines = lines.filter(pa.array(~blank))
    return lines


def _last_line_end(block: NDArray[np.uint8]) -> int:
    """Return the place behind the last line break, 0 if there is none."""
    step = 1 << 16
    for stop in range(block.size, 0, -step):
        start = max(stop - step, 0)
        found = block[start:stop].tobytes().rfind(b"\n")
        if found >= 0:
            return start + found + 1
    return 0
