"""Find the fields of JSON objects: one pass over a block of records, each judged by itself.

A record's verdict depends on its own bytes alone, so it is the same in a batch of 1 or of 10,000, and a broken record
costs no more than a good one. Nothing is converted here: see `kernels.cells`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import njit
from kernels.json_tokens import (
    EMPTY,
    ESCAPED,
    FITS,
    MISSING,
    NOT_AN_OBJECT,
    SYNTAX,
    TOO_LONG,
    TRAILING,
    TWICE,
    skip_colon,
    skip_nested,
    skip_scalar,
    skip_space,
    skip_string,
    wrong,
)
from kernels.parts import part
from kernels.unescape import unescape
from kernels.words import BYTES, INT64S, address_of, load_byte

_KEYS_REMEMBERED = 64


class Cells(NamedTuple):
    """Where the values of some records are.

    Attributes:
        kinds: (fields, records) uint8: MISSING, NULL, INTEGER, ... of `kernels.json_tokens`.
        starts, ends: (fields, records) int32 places in the scanned bytes; of a string, without its quotes.
        status: (records,) uint8: FITS, or why the record is no object. Its cells then mean nothing.
        where: (records,) int32: the byte of the record at which that was seen; for TWICE the index of the field.
    """

    kinds: NDArray[np.uint8]
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]
    status: NDArray[np.uint8]
    where: NDArray[np.int32]


def empty_cells(fields: int, records: int) -> Cells:
    """Return cells of which all are missing."""
    shape = (fields, records)
    kinds, starts, ends = np.zeros(shape, np.uint8), np.empty(shape, np.int32), np.empty(shape, np.int32)
    return Cells(kinds, starts, ends, np.zeros(records, np.uint8), np.zeros(records, np.int32))


def scan_objects(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], names: tuple[bytes, ...], bytes_max: int
) -> Cells:
    """Find the values of some keys in records that are JSON objects.

    Args:
        data: (bytes,) uint8, below 2 GiB.
        offsets: (records + 1,) int64, never decreasing, within `data`. White space around a record is ignored.
        names: the keys to find, UTF-8; other keys are checked and skipped.
        bytes_max: a longer record is not looked at.

    Returns:
        Their cells.
    """
    if data.size >= 1 << 31:
        raise ValueError(f"the block has {data.size} bytes; scan fewer than 2 GiB at once")
    if offsets[0] < 0 or offsets[-1] > data.size:
        raise ValueError(f"offsets run from {offsets[0]} to {offsets[-1]}, outside the {data.size} bytes of data")
    cells = empty_cells(len(names), offsets.size - 1)
    name_ends = np.cumsum([0, *(len(name) for name in names)])
    _scan_objects(data, offsets, np.frombuffer(b"".join(names) or b"\0", np.uint8), name_ends, bytes_max, *cells)
    return cells


@part
def _same(left, right, size):
    i = 0
    while i < size and load_byte(left + i) == load_byte(right + i):
        i += 1
    return i == size


@part
def _find_name(key, size, names, name_ends, guess):
    """Return which name the key is, -1 for none; the guess is looked at first."""
    if guess >= 0 and name_ends[guess + 1] - name_ends[guess] == size and _same(key, names + name_ends[guess], size):
        return guess
    for i in range(name_ends.size - 1):
        if name_ends[i + 1] - name_ends[i] == size and _same(key, names + name_ends[i], size):
            return i
    return -1


@part
def _is_blank(byte):
    return byte == 32 or byte == 10 or byte == 13 or byte == 9


@part
def _open_object(at, end, bytes_max):
    """Skip the bracket of a record: where its first key or its end is, and FITS or -status."""
    if end - at > bytes_max:
        return at, -TOO_LONG
    if at == end:
        return at, -EMPTY
    if load_byte(at) != 123:
        return at, -NOT_AN_OBJECT
    return skip_space(at + 1, end), FITS


@part
def _skip_value(at, end, limit):
    if at < end and (load_byte(at) == 123 or load_byte(at) == 91):
        return skip_nested(at, end, limit)
    return skip_scalar(at, end, limit)


@njit(f"void({BYTES}, {INT64S}, {BYTES}, {INT64S}, int64, uint8[:, ::1], int32[:, ::1], int32[:, ::1],"
      "uint8[::1], int32[::1])")  # fmt: skip
def _scan_objects(data, offsets, names, name_ends, bytes_max, kinds, starts, ends, status, where):
    base, limit, name_base = address_of(data), address_of(data) + data.size, address_of(names)
    guesses = np.full(_KEYS_REMEMBERED, -1, np.int64)  # which name the k-th key was in the record before
    scratch = np.empty(6 * names.size + 8, np.uint8)
    for record in range(offsets.size - 1):
        first, end = base + offsets[record], base + offsets[record + 1]
        while end > first and _is_blank(load_byte(end - 1)):
            end -= 1
        at = first
        while at < end and _is_blank(load_byte(at)):
            at += 1
        at, kind = _open_object(at, end, bytes_max)
        number, name, more = 0, -1, kind == FITS and (at >= end or load_byte(at) != 125)
        while more:
            if at >= end or load_byte(at) != 34:
                at, kind = wrong(at, end, SYNTAX)
                break
            key = at + 1
            at, kind = skip_string(key, end, limit)
            if kind < 0:
                break
            slot = min(number, _KEYS_REMEMBERED - 1)
            number += 1
            if kind != ESCAPED:
                name = _find_name(key, at - key, name_base, name_ends, guesses[slot])
                guesses[slot] = name
            elif at - key <= scratch.size:
                name = _find_name(address_of(scratch), unescape(key, at, scratch, 0), name_base, name_ends, -1)
            else:
                name = -1
            at, kind = skip_colon(at + 1, end)
            if kind < 0:
                break
            start, quote = at, 1 if at < end and load_byte(at) == 34 else 0
            at, kind = _skip_value(at, end, limit)
            if kind < 0:
                break
            if name >= 0:
                if kinds[name, record] != MISSING:
                    kind = -TWICE
                    break
                kinds[name, record] = kind
                starts[name, record], ends[name, record] = start + quote - base, at - quote - base
            at = skip_space(at, end)
            if at < end and load_byte(at) == 44:
                at = skip_space(at + 1, end)
            elif at < end and load_byte(at) == 125:
                more = False
            else:
                at, kind = wrong(at, end, SYNTAX)
                break
        if kind >= 0 and at + 1 < end:
            at = skip_space(at + 1, end)
            kind = -TRAILING
        if kind < 0:
            status[record] = -kind
            where[record] = name if kind == -TWICE else at - first
