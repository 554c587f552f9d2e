"""Arrow columns as JSON text, whole columns at a time."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from connectors.columns import valid_rows, views_of
from kernels.json_rows import BARE, FLOAT, INTEGER, QUOTED, write_objects
from kernels.number_text import NUMBER_BYTES
from kernels.shortest import TENS, powers_of_ten

_TEXT = pa.large_string()
_SLACK = 64
_WHOLE_MAX = 1e15  # whole numbers below are written as such, beyond with an exponent


def json_objects(rows: pa.RecordBatch, end: str = "") -> pa.LargeStringArray:
    """Write each row as one JSON object on one line; null, NaN and infinity are all `null`.

    Returns:
        (rows,) text, `end` after each.

    >>> json_objects(pa.record_batch({"id": ["a"], "x": [0.5], "why": [["b", "c"]]})).to_pylist()
    ['{"id":"a","x":0.5,"why":["b","c"]}']
    """
    names, columns = rows.schema.names, [_Column(column) for column in rows.columns]
    if not columns:
        return pa.array(["{}" + end] * rows.num_rows, _TEXT)
    words, before = [], "{"
    for name, column in zip(names, columns, strict=True):
        before += msgspec.json.encode(name).decode() + ":"
        if column.same is None:
            words.append(before.encode())
            before = ","
        else:  # it goes with what stands before the next one
            before += column.same + ","
    words.append((before[:-1] + "}" + end).encode() if before != "," else b"}" + end.encode())
    return _written([column for column in columns if column.same is None], words, rows.num_rows)


class _Column:
    """A column as the kernel takes it; `same` is its JSON where that is obviously the same in all rows."""

    def __init__(self, column: pa.Array) -> None:
        self.kind, self.same, self.numbers, self.text = BARE, None, None, None
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kind = column.type
        if column.null_count == len(column):
            self.same = "null"
        elif pa.types.is_float64(kind):
            self.kind, self.numbers = FLOAT, _floats(column).view(np.int64)
        elif pa.types.is_integer(kind) and kind != pa.uint64() and not column.null_count:
            self.kind, self.numbers = INTEGER, column.cast(pa.int64()).to_numpy()
        elif pa.types.is_list(kind) and not column.null_count and column.value_lengths().sum().as_py() == 0:
            self.same = "[]"
        elif (pa.types.is_string(kind) or pa.types.is_large_string(kind)) and not _needs_escapes(column.cast(_TEXT)):
            self.kind, self.text = QUOTED, column.cast(_TEXT)
        else:
            self.text = json_values(column)


def _floats(column: pa.DoubleArray) -> NDArray[np.float64]:
    if not column.null_count:
        return column.to_numpy()
    return np.where(valid_rows(column), column.fill_null(0.0).to_numpy(), np.nan)


def _written(columns: list[_Column], words: list[bytes], rows: int) -> pa.LargeStringArray:
    places: list[int] = []
    numbers: list[NDArray[np.int64]] = []
    texts: list[NDArray[np.int64]] = []
    held: list[NDArray[np.uint8]] = []  # alive while the kernel knows their addresses
    size = rows * (sum(map(len, words)) + NUMBER_BYTES * len(columns)) + _SLACK
    for column in columns:
        if column.numbers is not None:
            places.append(len(numbers))
            numbers.append(column.numbers)
            continue
        assert column.text is not None
        offsets, data = views_of(column.text)
        places.append(len(held))
        ends = np.where(valid_rows(column.text), offsets[1:], -1) if column.text.null_count else offsets[1:]
        texts += [offsets[:-1], ends]
        held.append(data)
        size += int(offsets[-1] - offsets[0])
    out, ends = np.empty(size, np.uint8), np.zeros(rows + 1, np.int64)
    used = write_objects(
        np.array([column.kind for column in columns], np.int8), np.array(places, np.int64),
        np.cumsum([0, *map(len, words)]), np.frombuffer(b"".join(words), np.uint8), stacked(numbers, rows),
        stacked(texts, rows), np.array([data.ctypes.data for data in held], np.int64), powers_of_ten(), TENS,
        ends[1:], out,
    )  # fmt: skip
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(out[:used])]
    return pa.Array.from_buffers(_TEXT, rows, buffers)


def stacked(columns: Sequence[NDArray[np.int64]], rows: int) -> NDArray[np.int64]:
    """Return columns of rows as one (columns, rows) array."""
    made = np.empty((len(columns), rows), np.int64)
    for place, column in enumerate(columns):
        made[place] = column
    return made


def json_values(column: pa.Array) -> pa.LargeStringArray:
    """Write each value as JSON; what JSON has no word for is null."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return json_values(column.dictionary_decode())
    if pa.types.is_floating(kind):
        finite = pc.is_finite(column)
        if pc.all(finite).as_py() is False:
            column = pc.if_else(finite, column, pa.scalar(None, kind))
        return pc.cast(column.cast(pa.int64()) if _all_whole(column) else column, _TEXT)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return pc.cast(column, _TEXT)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _quoted(column.cast(_TEXT))
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_string(kind.value_type):
        return _list_of_strings(column)
    return pa.array(
        [None if value is None else msgspec.json.encode(value).decode() for value in column.to_pylist()], _TEXT
    )


def nan_as_null(column: pa.Array) -> pa.Array:
    """Return the column with null for NaN: in features both mean that there is no value."""
    if not pa.types.is_floating(column.type) or not pc.any(pc.is_nan(column)).as_py():
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def _scalar(text: str) -> pa.Scalar:
    return pa.scalar(text, _TEXT)


def _needs_escapes(column: pa.LargeStringArray) -> bool:
    text = _bytes(column)
    return bool(((text < 0x20) | (text == ord('"')) | (text == ord("\\"))).any())


def _quoted(column: pa.LargeStringArray) -> pa.LargeStringArray:
    if _needs_escapes(column):
        if (_bytes(column) < 0x20).any():
            texts = [None if value is None else msgspec.json.encode(value).decode() for value in column.to_pylist()]
            return pa.array(texts, _TEXT)
        column = pc.replace_substring(pc.replace_substring(column, "\\", "\\\\"), '"', '\\"')
    return pc.binary_join_element_wise(_scalar('"'), column, _scalar('"'), _scalar(""))


def _bytes(column: pa.LargeStringArray) -> NDArray[np.uint8]:
    """Return the UTF-8 of all texts; comparing these bytes costs a fraction of a regular expression per text."""
    _, ends, data = column.buffers()
    if data is None or not len(column):
        return np.empty(0, np.uint8)
    bounds = np.frombuffer(ends, np.int64)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]]


def _all_whole(column: pa.Array) -> bool:
    """Say whether a finite column holds only whole numbers, such as counts: integers print 2.5 times as fast."""
    if column.null_count or not len(column):
        return False
    numbers = column.to_numpy()
    if numbers[0] != np.rint(numbers[0]):
        return False  # the usual way out
    return bool((np.abs(numbers) < _WHOLE_MAX).all() and (numbers == np.rint(numbers)).all())


def _list_of_strings(column: pa.Array) -> pa.LargeStringArray:
    if column.offset and column.null_count:  # pyarrow takes no mask beside the offsets of a slice: copy it
        column = column.take(pa.array(np.arange(len(column))))
    quoted = pc.fill_null(json_values(column.values), "null").cast(pa.string())  # the one kind that pyarrow joins
    mask = column.is_null() if column.null_count else None
    lists = pa.ListArray.from_arrays(column.offsets.cast(pa.int32()), quoted, mask=mask)
    joined = pc.binary_join(lists, ",").cast(_TEXT)
    return pc.binary_join_element_wise(_scalar("["), joined, _scalar("]"), _scalar(""))
