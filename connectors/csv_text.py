"""Arrow columns as lines of CSV: numbers by a kernel, several times as fast as Arrow and in the same form."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from connectors.columns import valid_rows, views_of
from connectors.json_text import json_values, stacked
from kernels.csv_rows import BARE, FLOAT, INTEGER, QUOTED, write_rows
from kernels.number_text import NUMBER_BYTES
from kernels.shortest import TENS, powers_of_ten

ROWS_AT_ONCE = 8192  # what is written at once stays in the processor's cache
_CELL_BYTES = NUMBER_BYTES + 3
_SLACK = 64


def csv_name(name: str) -> str:
    """Return the name of a column for the header, in quotes if it needs them."""
    return '"' + name.replace('"', '""') + '"' if any(sign in name for sign in ',"\r\n') else name


def csv_lines(rows: pa.RecordBatch) -> Iterator[bytes]:
    """Write rows as lines, some thousand at a time.

    Text stands in quotes, null and NaN are empty, lists and structs are JSON. Numbers are the shortest that read back
    the same.
    """
    cells = _Cells(rows)
    out = np.empty(_SLACK, np.uint8)
    for first in range(0, rows.num_rows, ROWS_AT_ONCE):
        end = min(first + ROWS_AT_ONCE, rows.num_rows)
        room = cells.room(first, end)
        if out.size < room:
            out = np.empty(room, np.uint8)
        yield out[: cells.write(first, end, out)].tobytes()


class _Cells:
    """The columns of some rows, as the kernel takes them."""

    def __init__(self, rows: pa.RecordBatch) -> None:
        kinds, places = [], []
        numbers: list[NDArray[np.int64]] = []
        texts: list[NDArray[np.int64]] = []
        self._held: list[NDArray[np.uint8]] = []  # alive while the kernel knows their addresses
        for column in map(_plain, rows.columns):
            if pa.types.is_float64(column.type):
                kinds.append(FLOAT)
                places.append(len(numbers))
                numbers.append(_floats(column).view(np.int64))
            elif pa.types.is_int64(column.type):
                kinds.append(INTEGER)
                places.append(len(numbers))
                numbers.append(column.to_numpy())
            else:
                kinds.append(BARE if pa.types.is_large_string(column.type) else QUOTED)
                places.append(len(self._held))
                offsets, data = views_of(column)
                ends = offsets[1:]
                texts += [offsets[:-1], np.where(valid_rows(column), ends, -1) if column.null_count else ends]
                self._held.append(data)
        self._kinds, self._places = np.array(kinds, np.int8), np.array(places, np.int64)
        self._numbers = stacked(numbers, rows.num_rows)
        self._texts = stacked(texts, rows.num_rows)
        self._addresses = np.array([data.ctypes.data for data in self._held], np.int64)

    def room(self, first: int, end: int) -> int:
        """Return how many bytes some lines may take."""
        text = int((np.maximum(self._texts[1::2, first:end] - self._texts[::2, first:end], 0)).sum())
        return (end - first) * (self._kinds.size * _CELL_BYTES + 1) + text + _SLACK

    def write(self, first: int, end: int, out: NDArray[np.uint8]) -> int:
        """Write some lines and return how many bytes they take."""
        size: int = write_rows(
            self._kinds, self._places, self._numbers, self._texts, self._addresses,
            first, end, powers_of_ten(), TENS, out,
        )  # fmt: skip
        return size


def _plain(column: pa.Array) -> pa.Array:
    """Return a column as float64, int64 without nulls, string or binary (for quotes) or large string (without)."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.dictionary_decode())
    if pa.types.is_nested(kind):
        return _doubled(json_values(column).cast(pa.string()))
    if pa.types.is_string(kind):
        return _doubled(column)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or _is_bytes(kind):
        return _doubled(column.cast(pa.binary()))
    if pa.types.is_float64(kind) or (pa.types.is_integer(kind) and kind != pa.uint64() and not column.null_count):
        return column if pa.types.is_float64(kind) else column.cast(pa.int64())
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    return column.cast(pa.large_string())


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _doubled(column: pa.StringArray) -> pa.StringArray:
    """Double the quotes in a text, if there are any."""
    offsets, data = views_of(column)
    has_quotes = (data[offsets[0] : offsets[-1]] == ord('"')).any()
    return pc.replace_substring(column, '"', '""') if has_quotes else column


def _floats(column: pa.DoubleArray) -> NDArray[np.float64]:
    if column.null_count:
        return np.where(valid_rows(column), column.fill_null(0.0).to_numpy(), np.nan)
    values: NDArray[np.float64] = column.to_numpy()
    return values
