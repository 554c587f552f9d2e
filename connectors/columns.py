"""Between Arrow's arrays and the plain ones of kernels, without copies where that is possible."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kernels.hashing import NULL_HASH, SEED, hash_bools, hash_bytes, hash_ints

_NO_BYTES = np.zeros(0, np.uint8)


def views_of(column: pa.Array) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Return offsets (n + 1,), int32 or of large arrays int64, and bytes of a string or binary array or slice."""
    large = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    dtype = np.dtype(np.int64 if large else np.int32)
    _, offsets, data = column.buffers()
    if offsets is None or len(column) == 0:
        return np.zeros(len(column) + 1, dtype), _NO_BYTES
    places = np.frombuffer(offsets, dtype, len(column) + 1, column.offset * dtype.itemsize)
    return np.require(places, requirements="A"), np.frombuffer(data, np.uint8) if data else _NO_BYTES


def text_array(offsets: NDArray[np.int32], data: NDArray[np.uint8], valid: NDArray[np.bool_]) -> pa.StringArray:
    """Make a string array of offsets (n + 1,), valid UTF-8 bytes and which of them are no nulls."""
    buffers = [_bitmap(valid), pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), valid.size, buffers)


def plain_array(values: NDArray[Any], valid: NDArray[np.bool_]) -> pa.Array:
    """Make an int64 or float64 array of values and which of them are no nulls."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), valid.size, [_bitmap(valid), pa.py_buffer(values)])


def bool_array(values: NDArray[np.bool_], valid: NDArray[np.bool_]) -> pa.BooleanArray:
    """Make a boolean array of values and which of them are no nulls."""
    packed = pa.py_buffer(np.packbits(values, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), valid.size, [_bitmap(valid), packed])


def valid_rows(column: pa.Array) -> NDArray[np.bool_]:
    """Return (n,) bool: which values are no nulls."""
    if column.null_count == 0:
        return np.ones(len(column), np.bool_)
    return column.is_valid().to_numpy(zero_copy_only=False)


def ints_of(column: pa.Array) -> NDArray[np.int64]:
    """Return the values of an integer array as (n,) int64, with 0 for null; those of uint64 wrap."""
    return _filled(column).to_numpy(zero_copy_only=False).astype(np.int64, copy=False)


def floats_of(column: pa.Array) -> NDArray[np.float64]:
    """Return the values of an integer or float array as (n,) float64, with 0 for null and for -0.0.

    0.0 and -0.0 are equal, and shall have equal hashes.
    """
    return _filled(column).to_numpy(zero_copy_only=False).astype(np.float64) + 0.0


def bools_of(column: pa.BooleanArray) -> NDArray[np.bool_]:
    """Return the values of a boolean array as (n,) bool, with False for null."""
    return _filled(column).to_numpy(zero_copy_only=False).astype(np.bool_, copy=False)


def hash_column(column: pa.Array | pa.ChunkedArray, seed: int = SEED) -> NDArray[np.uint64]:
    """Hash a column of strings, bytes, integers, booleans or floats.

    Equal values of one kind have equal hashes, in every array, slice, encoding (plain, large, dictionary) and process.

    Returns:
        (n,) uint64: 0 for null and only for null.

    Raises:
        TypeError: the column holds something else.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if pa.types.is_dictionary(kind):
        hashes = np.append(hash_column(column.dictionary, seed), np.uint64(NULL_HASH))
        return hashes[column.indices.cast(pa.int64()).fill_null(hashes.size - 1).to_numpy()]
    if pa.types.is_string_view(kind):
        column, kind = column.cast(pa.large_string()), pa.large_string()
    if any(check(kind) for check in _TEXT_CHECKS):
        hashes = hash_bytes(*views_of(column), seed)
    elif pa.types.is_integer(kind):
        hashes = hash_ints(ints_of(column), seed)
    elif pa.types.is_boolean(kind):
        hashes = hash_bools(bools_of(column), seed)
    elif pa.types.is_floating(kind):
        hashes = hash_ints(floats_of(column).view(np.int64), seed)
    else:
        raise TypeError(f"a column of {kind} cannot be a key; use text, whole numbers or booleans")
    if column.null_count:
        hashes[~valid_rows(column)] = NULL_HASH
    return hashes


_TEXT_CHECKS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)


def _filled(column: pa.Array) -> pa.Array:
    return pc.fill_null(column, pa.scalar(0, pa.int8()).cast(column.type)) if column.null_count else column


def _bitmap(valid: NDArray[np.bool_]) -> pa.Buffer | None:
    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
