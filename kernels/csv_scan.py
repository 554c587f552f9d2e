"""Find the cells of CSV lines: one pass over a block of records, each judged by itself.

One line is one record: a cell in quotes may hold commas and doubled quotes, but no line break.

Source: RFC 4180; an empty cell without quotes stands for null.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.cells import QUOTED
from kernels.compiled import njit
from kernels.json_scan import Cells, empty_cells
from kernels.json_tokens import (
    BAD_UTF8,
    EMPTY,
    FALSE,
    FITS,
    FLOAT,
    INTEGER,
    NEWLINE,
    NULL,
    OPEN_QUOTE,
    SYNTAX,
    TEXT,
    TOO_FEW_CELLS,
    TOO_LONG,
    TOO_MANY_CELLS,
    TRUE,
    skip_digits,
    skip_utf8,
)
from kernels.parts import part
from kernels.words import BYTES, INT32S, INT64S, address_of, load_byte

WANTS_TEXT, WANTS_NUMBER, WANTS_BOOL = range(3)


def scan_csv(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    fields: NDArray[np.int32],
    wants: NDArray[np.uint8],
    bytes_max: int,
    delimiter: bytes = b",",
) -> Cells:
    """Find the values of some columns in records that are CSV lines.

    Args:
        data: (bytes,) uint8, below 2 GiB.
        offsets: (records + 1,) int64, never decreasing, within `data`. A newline at the end of a record is ignored.
        fields: (columns,) int32: which field a column is, -1 for none.
        wants: (fields,) uint8: WANTS_TEXT, WANTS_NUMBER or WANTS_BOOL. What does not fit is found as TEXT.
        bytes_max: a longer record is not looked at.
        delimiter: one byte between cells.
    """
    if data.size >= 1 << 31:
        raise ValueError(f"the block has {data.size} bytes; scan fewer than 2 GiB at once")
    if offsets[0] < 0 or offsets[-1] > data.size:
        raise ValueError(f"offsets run from {offsets[0]} to {offsets[-1]}, outside the {data.size} bytes of data")
    cells = empty_cells(wants.size, offsets.size - 1)
    _scan_csv(data, offsets, fields, wants, bytes_max, delimiter[0], *cells)
    return cells


@part
def _number_kind(at, end):
    """Return INTEGER or FLOAT if a number is written there, as spreadsheets and pandas write them; else TEXT."""
    kind = INTEGER
    if load_byte(at) == 43 or load_byte(at) == 45:
        at += 1
    digits = at
    at = skip_digits(at, end)
    count = at - digits
    if at < end and load_byte(at) == 46:
        kind, digits = FLOAT, at + 1
        at = skip_digits(digits, end)
        count += at - digits
    if count == 0:
        return TEXT
    if at < end and load_byte(at) | 32 == 101:
        kind, at = FLOAT, at + 1
        if at < end and (load_byte(at) == 43 or load_byte(at) == 45):
            at += 1
        digits = at
        at = skip_digits(digits, end)
        if at == digits:
            return TEXT
    return kind if at == end else TEXT


@part
def _bool_kind(at, end):
    """Return TRUE or FALSE for 1, 0, true, false in any case; else TEXT."""
    first = load_byte(at)
    if end - at == 1 and (first == 49 or first == 48):
        return TRUE if first == 49 else FALSE
    packed = 0
    for i in range(min(end - at, 6)):
        packed = packed << 8 | load_byte(at + i) | 32
    return TRUE if packed == 0x74727565 else FALSE if packed == 0x66616C7365 else TEXT


@part
def _typed_cell(at, end, wanted):
    """Return where a number or boolean starts and ends without blanks, and its kind."""
    while at < end and load_byte(at) == 32:
        at += 1
    while end > at and load_byte(end - 1) == 32:
        end -= 1
    if at == end:
        return at, end, NULL
    return at, end, _number_kind(at, end) if wanted == WANTS_NUMBER else _bool_kind(at, end)


@part
def _skip_cell(at, end, delimiter):
    """Skip a cell: where its text starts and ends, where the next cell starts, and its kind or -status."""
    quoted = at < end and load_byte(at) == 34
    if quoted:
        at += 1
    start, kind = at, TEXT
    while at < end:
        byte = load_byte(at)
        if quoted and byte == 34:
            if at + 1 < end and load_byte(at + 1) == 34:
                kind, at = QUOTED, at + 2
                continue
            if at + 1 < end and load_byte(at + 1) != delimiter:
                return start, at, at + 1, -SYNTAX
            return start, at, at + 2, kind
        if not quoted and byte == delimiter:
            break
        if byte == 10:
            return start, at, at, -(OPEN_QUOTE if quoted else NEWLINE)
        next_at = at + 1 if byte < 128 else skip_utf8(at, end)
        if next_at == at:
            return start, at, at, -BAD_UTF8
        at = next_at
    if quoted:
        return start, at, at, -OPEN_QUOTE
    return start, at, at + 1, kind if at > start else NULL


@njit(f"void({BYTES}, {INT64S}, {INT32S}, {BYTES}, int64, int64, uint8[:, ::1], int32[:, ::1], int32[:, ::1],"
      "uint8[::1], int32[::1])")  # fmt: skip
def _scan_csv(data, offsets, fields, wants, bytes_max, delimiter, kinds, starts, ends, status, where):
    base = address_of(data)
    for record in range(offsets.size - 1):
        at, end = base + offsets[record], base + offsets[record + 1]
        first = at
        while end > at and (load_byte(end - 1) == 10 or load_byte(end - 1) == 13):
            end -= 1
        kind, column = FITS, 0
        if end - at > bytes_max:
            kind = -TOO_LONG
        elif at == end:
            kind = -EMPTY
        while kind >= 0 and at <= end:  # `at` is behind the end once the last cell is done
            if column == fields.size:
                kind = -TOO_MANY_CELLS
                break
            start, stop, at, kind = _skip_cell(at, end, delimiter)
            if kind < 0:
                break
            field = fields[column]
            column += 1
            if field >= 0:
                if wants[field] != WANTS_TEXT and kind != NULL:
                    start, stop, kind = _typed_cell(start, stop, wants[field])
                kinds[field, record] = kind
                starts[field, record], ends[field, record] = start - base, stop - base
        if kind >= 0 and column < fields.size:
            kind = -TOO_FEW_CELLS
        if kind < 0:
            status[record] = -kind
            where[record] = column if kind == -TOO_FEW_CELLS else at - first
