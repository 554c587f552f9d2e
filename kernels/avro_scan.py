"""Read Avro records into cells: one pass over a block of records, by a small program made of the writer's schema.

Nothing is believed: each read is checked against the record's end, counts against the bytes that are left, and
nesting against a depth, so that no record costs more than its bytes.

Source: Apache Avro 1.12, "Binary encoding".
"""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import njit
from kernels.json_tokens import DEEPEST, FALSE, FLOAT, INTEGER, NULL, TEXT, TRUE
from kernels.parts import hot, part
from kernels.wire import (
    BAD_BOOL,
    BAD_BRANCH,
    BAD_LENGTH,
    BAD_SYMBOL,
    ENDS_EARLY,
    HARD_DECIMAL,
    LEFT_OVER,
    NESTED_TOO_DEEP,
    NOT_UTF8,
    STAMP,
    SYMBOL,
    WireCells,
    check_utf8,
    empty_wire_cells,
    read_zigzag,
)
from kernels.words import BYTES, INT64S, address_of, load_byte, load_half, load_word

# The operations of a program, one row each: operation, field (-1: skip), a, b.
(
    END,  # the record is done
    LONG,  # an int or long
    TEXT_OF,  # a string or bytes: a length, then that many bytes
    OPTIONAL,  # a union with null, whose branch is a; the other branch is the next b rows
    DOUBLE,
    SINGLE,
    BOOL,
    ENUM,  # of a names, the first of which is names b
    TIME,  # a long: times a, divided by b, in milliseconds
    DECIMAL,  # bytes with scale a; or, if b >= 0, b bytes without a length
    SKIP_FIXED,  # a bytes
    UNION,  # of a branches: the next a rows say in their column a where each begins
    GOTO,  # row a
    ARRAY,  # or map: its items are the next rows up to NEXT; then row a. b: items take no bytes
    NEXT,  # item
    CALL,  # row a, and come back at RETURN
    RETURN,
    MARK,  # the value is of kind a
) = range(18)

_EXACT = 1 << 53
_LARGEST = (1 << 63) - 1
_DAYS_MAX = 1 << 40
_TENS = 10.0 ** np.arange(23)  # the powers of ten that float64 holds exactly


def scan_avro(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    program: NDArray[np.int64],
    names: NDArray[np.int64],
    fields: int,
) -> WireCells:
    """Read records that one schema wrote.

    Args:
        data: (bytes,) uint8, below 2 GiB.
        starts, ends: (records,) int64: where each record's own bytes are, within `data`.
        program: (rows, 4) int64, made by `connectors.avro_plan`, which is trusted; the data is not.
        names: (names,) int64: place << 32 | size of each name of an enum.
        fields: how many fields the cells have.
    """
    cells = empty_wire_cells(fields, starts.size)
    _scan_avro(data, starts, ends, program, names, _TENS, *cells)
    return cells


@hot
def _read_length(at, end):
    at, length = read_zigzag(at, end)
    if at < 0:
        return at, length
    if length < 0:
        return -BAD_LENGTH, length
    if length > end - at:
        return -ENDS_EARLY, length
    return at, length


@part
def _read_decimal(at, size, scale, tens, base):
    """Read a big-endian integer in units of 10**-scale: its kind and value, as in `WireCells`."""
    begin, end = at, at + size
    filler = 255 if size > 0 and load_byte(at) >= 128 else 0
    while at < end and load_byte(at) == filler:
        at += 1
    size, back = end - at, 1 if at > begin else 0  # one filler may be needed again, to show the sign
    if size > 8 or (size == 8 and (load_byte(at) >= 128) != (filler == 255)):
        if scale == 0 or size > 200:
            largest = -np.int64(_LARGEST) if filler else np.int64(_LARGEST)
            return INTEGER, largest
        return HARD_DECIMAL, (at - back - base) << 32 | (size + back) << 8 | scale
    value = np.int64(-1) if filler == 255 else np.int64(0)
    for i in range(size):
        value = value << 8 | load_byte(at + i)
    if scale == 0:
        return INTEGER, value
    if -_EXACT <= value <= _EXACT and scale < tens.size:
        return FLOAT, np.float64(np.float64(value) / tens[scale]).view(np.int64)
    return HARD_DECIMAL, (at - back - base) << 32 | (size + back) << 8 | scale


@hot
def _read_plain(code, a, b, at, end, limit, base, tens, names):
    """Read a value without parts: where it ends or -status, its kind, its value."""
    value = np.int64(0)
    if code == LONG:
        at, value = read_zigzag(at, end)
        return at, INTEGER, value
    if code == TEXT_OF:
        at, size = _read_length(at, end)
        if at < 0:
            return at, TEXT, value
        if not check_utf8(at, at + size, limit):
            return -NOT_UTF8, TEXT, value
        return at + size, TEXT, (at - base) << 32 | size
    if code == DOUBLE:
        if end - at < 8:
            return -ENDS_EARLY, FLOAT, value
        return at + 8, FLOAT, np.int64(load_word(at))
    if code == SINGLE:
        if end - at < 4:
            return -ENDS_EARLY, FLOAT, value
        return at + 4, FLOAT, np.float64(np.uint32(load_half(at)).view(np.float32)).view(np.int64)
    if code == BOOL:
        if at >= end:
            return -ENDS_EARLY, FALSE, value
        byte = load_byte(at)
        return at + 1 if byte <= 1 else -BAD_BOOL, TRUE if byte == 1 else FALSE, value
    if code == TIME:
        at, value = read_zigzag(at, end)
        if a > 1:
            value = min(max(value, -_DAYS_MAX), _DAYS_MAX // a) * a
        return at, STAMP, value // b
    if code == ENUM:
        at, value = read_zigzag(at, end)
        if at >= 0 and (value < 0 or value >= a):
            return -BAD_SYMBOL, SYMBOL, value
        return at, SYMBOL, names[b + value] if at >= 0 else value
    size = b
    if size < 0:
        at, size = _read_length(at, end)
    if at < 0 or size > end - at:
        return min(at, -ENDS_EARLY), FLOAT, value
    kind, value = _read_decimal(at, size, a, tens, base)
    return at + size, kind, value


@hot
def _skip_plain(code, a, b, at, end):
    """Skip a value without parts: where it ends or -status."""
    if code in (LONG, TIME, ENUM):
        at, _ = read_zigzag(at, end)
        return at
    size = a
    if code == TEXT_OF or (code == DECIMAL and b < 0):
        at, size = _read_length(at, end)
        return at + size if at >= 0 else at
    if code == DOUBLE:
        size = 8
    elif code == SINGLE:
        size = 4
    elif code == BOOL:
        size = 1
    elif code == DECIMAL:
        size = b
    return at + size if size <= end - at else -ENDS_EARLY


@part
def _open_block(at, end):
    """Read the head of a block of items: where it ends or -status, and how many items, 0 for a block left behind."""
    at, count = read_zigzag(at, end)
    if at < 0 or count >= 0:
        return at, count, at >= 0 and count == 0
    at, size = _read_length(at, end)  # a block that says its size is skipped as a whole
    return at + size if at >= 0 else at, np.int64(0), False


@njit(f"void({BYTES}, {INT64S}, {INT64S}, Array(int64, 2, 'C', readonly=True), {INT64S}, float64[::1],"
      "uint8[:, ::1], int64[:, ::1], uint8[::1], int32[::1])")  # fmt: skip
def _scan_avro(data, starts, ends, program, names, tens, kinds, values, status, where):
    base, limit = address_of(data), address_of(data) + data.size
    returns, counts = np.zeros(DEEPEST, np.int64), np.zeros(DEEPEST, np.int64)
    for record in range(starts.size):
        at, end = base + starts[record], base + ends[record]
        row, depth, here, code = 0, 0, at, LONG
        while code != END:
            code, field, a, b = program[row, 0], program[row, 1], program[row, 2], program[row, 3]
            here = at
            row += 1
            if code == OPTIONAL:
                at, branch = read_zigzag(at, end)
                if at >= 0 and (branch < 0 or branch > 1):
                    at = -BAD_BRANCH
                elif branch == a:
                    row += b
                    if field >= 0:
                        kinds[field, record] = NULL
            elif 0 < code < SKIP_FIXED and field >= 0:
                at, kinds[field, record], values[field, record] = _read_plain(
                    code, a, b, at, end, limit, base, tens, names
                )
            elif 0 < code <= SKIP_FIXED:
                at = _skip_plain(code, a, b, at, end)
            elif code == UNION:
                at, branch = read_zigzag(at, end)
                if at >= 0 and (branch < 0 or branch >= a):
                    at = -BAD_BRANCH
                elif at >= 0:
                    row = program[row + branch, 2]
            elif code == GOTO:
                row = a
            elif code == MARK:
                kinds[field, record] = a
            elif code == ARRAY:
                at, count, done = _open_block(at, end)
                if at >= 0 and done:
                    row = a
                elif at >= 0 and (count == 0 or b == 1):
                    row -= 1  # the next block
                elif at >= 0 and count > end - at:
                    at = -ENDS_EARLY  # each item takes a byte
                elif at >= 0:
                    returns[depth], counts[depth], depth = row, count, depth + 1
            elif code == NEXT:
                counts[depth - 1] -= 1
                row = returns[depth - 1]
                if counts[depth - 1] == 0:
                    row, depth = row - 1, depth - 1
            elif code == CALL:
                returns[depth], depth = row, depth + 1
                row = a
            elif code == RETURN:
                depth -= 1
                row = returns[depth]
            elif at != end:
                at = -LEFT_OVER
            if depth == DEEPEST:
                at = -NESTED_TOO_DEEP
            if at < 0:
                break
        if at < 0:
            status[record] = -at
            where[record] = here - base - starts[record]
