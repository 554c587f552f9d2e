"""Read Protobuf messages into cells: one pass over a block of records, by a table of the fields that are wanted.

Unknown fields, and known ones in another wire type, are skipped; of a field given twice the last counts. Each read is
checked against the record's end.

Source: Protocol Buffers documentation, "Encoding".
"""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import njit
from kernels.json_tokens import DEEPEST, FALSE, FLOAT, INTEGER, MISSING, TEXT, TRUE
from kernels.parts import hot, part
from kernels.wire import (
    BAD_GROUP,
    BAD_TAG,
    ENDS_EARLY,
    NESTED_TOO_DEEP,
    NOT_UTF8,
    STAMP,
    SYMBOL,
    WireCells,
    check_utf8,
    empty_wire_cells,
    read_varint,
)
from kernels.words import BYTES, INT64S, address_of, load_half, load_word

# What a field holds, by wire type: numbers below 10 are varints, below 20 eight bytes, below 30 lengths, then four.
(INT64, INT32, UINT64, UINT32, SINT64, SINT32, BOOL, ENUM, CLOSED_ENUM) = range(9)
(DOUBLE, FIXED64, SFIXED64) = range(10, 13)
(TEXT_OF, TIMESTAMP) = range(20, 22)
(SINGLE, FIXED32, SFIXED32) = range(30, 33)
NO_VALUE = 40  # of a group of fields one of which is set: setting this one only takes the others back

_VARINT, _EIGHT, _LENGTH, _OPEN, _CLOSE, _FOUR = range(6)
_LARGEST = (1 << 63) - 1
_SECONDS_MAX = 1 << 50


def scan_proto(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    table: NDArray[np.int64],
    names: NDArray[np.int64],
    absent: NDArray[np.int64],
) -> WireCells:
    """Read messages of one type.

    Args:
        data: (bytes,) uint8, below 2 GiB.
        starts, ends: (records,) int64: where each record's own bytes are, within `data`.
        table: (rows, 6) int64 of the wanted fields: number, what it holds, field of the cells (-1: none), its oneof
            (0: none), and of an ENUM the first of its names and how many.
        names: (names, 2) int64: number and place << 32 | size of each name of an enum.
        absent: (fields, 2) int64: kind and value of a cell whose field is not in the message.
    """
    cells = empty_wire_cells(len(absent), starts.size)
    for field, (kind, value) in enumerate(absent.tolist()):
        if kind != MISSING:
            cells.kinds[field], cells.values[field] = kind, value
    _scan_proto(data, starts, ends, table, names, *cells)
    return cells


@hot
def _read_tag(at, end):
    first = at
    at, bits = read_varint(at, end)
    if at >= 0 and (
        at - first > 5 or bits > np.uint64(0xFFFFFFFF) or bits < np.uint64(8) or bits & np.uint64(7) > np.uint64(5)
    ):
        return -BAD_TAG, np.int64(0)
    return at, np.int64(bits)


@hot
def _skip(at, end, wire):
    """Skip a value that is no group."""
    if wire == _VARINT:
        at, _ = read_varint(at, end)
        return at
    size = np.int64(8 if wire == _EIGHT else 4)
    if wire == _LENGTH:
        at, length = read_varint(at, end)
        if at < 0:
            return at
        if length > np.uint64(end - at):
            return -ENDS_EARLY
        size = np.int64(length)
    return at + size if size <= end - at else -ENDS_EARLY


@part
def _skip_group(at, end, number, numbers):
    """Skip the fields of a group, and of groups in it, up to the mark that closes it."""
    numbers[0], depth = number, 1
    while depth > 0:
        at, tag = _read_tag(at, end)
        if at < 0:
            return at
        wire = tag & 7
        if wire == _OPEN:
            if depth == DEEPEST:
                return -NESTED_TOO_DEEP
            numbers[depth], depth = tag >> 3, depth + 1
        elif wire == _CLOSE:
            depth -= 1
            if numbers[depth] != tag >> 3:
                return -BAD_GROUP
        else:
            at = _skip(at, end, wire)
            if at < 0:
                return at
    return at


@hot
def _varint_value(holds, bits, first, count, names):
    """Return kind and value of a varint; MISSING for a name that the schema does not have."""
    if holds == BOOL:
        return TRUE if bits != np.uint64(0) else FALSE, np.int64(0)
    if holds == INT64:
        return INTEGER, np.int64(bits)
    if holds == UINT64:
        return INTEGER, np.int64(_LARGEST) if bits >> np.uint64(63) else np.int64(bits)
    if holds == UINT32:
        return INTEGER, np.int64(bits & np.uint64(0xFFFFFFFF))
    if holds == SINT32:
        bits &= np.uint64(0xFFFFFFFF)
    if holds in (SINT64, SINT32):
        return INTEGER, np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1))
    number = np.int64(np.int32(np.uint32(bits & np.uint64(0xFFFFFFFF))))
    if holds in (ENUM, CLOSED_ENUM):
        if 0 <= number < count and names[first + number, 0] == number:
            return SYMBOL, names[first + number, 1]
        for i in range(first, first + count):
            if names[i, 0] == number:
                return SYMBOL, names[i, 1]
        if holds == CLOSED_ENUM:
            return MISSING, number
    return INTEGER, number


@hot
def _fixed_value(holds, at):
    """Return kind and value of eight or four bytes."""
    if holds == DOUBLE:
        return FLOAT, np.int64(load_word(at))
    if holds == SFIXED64:
        return INTEGER, np.int64(load_word(at))
    if holds == FIXED64:
        bits = load_word(at)
        return INTEGER, np.int64(_LARGEST) if bits >> np.uint64(63) else np.int64(bits)
    half = np.uint32(load_half(at))
    if holds == SINGLE:
        return FLOAT, np.float64(half.view(np.float32)).view(np.int64)
    return INTEGER, np.int64(half) if holds == FIXED32 else np.int64(np.int32(half))


@part
def _read_timestamp(at, end, numbers):
    """Read google.protobuf.Timestamp, seconds = 1 and nanos = 2: where it ends or -status, and milliseconds."""
    seconds, nanos = np.int64(0), np.int64(0)
    while at < end:
        at, tag = _read_tag(at, end)
        if at < 0:
            return at, seconds
        if tag == 8 or tag == 16:
            at, bits = read_varint(at, end)
            if tag == 8:
                seconds = min(max(np.int64(bits), np.int64(-_SECONDS_MAX)), np.int64(_SECONDS_MAX))
            else:
                nanos = np.int64(np.int32(np.uint32(bits & np.uint64(0xFFFFFFFF))))
        elif tag & 7 == _OPEN:
            at = _skip_group(at, end, tag >> 3, numbers)
        else:
            at = _skip(at, end, tag & 7) if tag & 7 != _CLOSE else -BAD_GROUP
        if at < 0:
            return at, seconds
    return at, seconds * 1000 + nanos // 1_000_000


@hot
def _find(table, number, wire, guess):
    """Return the row of a field, -1 if it is not wanted or not of this wire type; the guess is looked at first."""
    row = guess
    if row >= table.shape[0] or table[row, 0] != number:
        row = 0
        while row < table.shape[0] and table[row, 0] != number:
            row += 1
        if row == table.shape[0]:
            return -1
    holds = table[row, 1] // 10
    expected = _VARINT if holds == 0 else _EIGHT if holds == 1 else _LENGTH if holds == 2 else _FOUR
    return row if wire == expected or holds == 4 else -1


@njit(f"void({BYTES}, {INT64S}, {INT64S}, Array(int64, 2, 'C', readonly=True), Array(int64, 2, 'C', readonly=True),"
      "uint8[:, ::1], int64[:, ::1], uint8[::1], int32[::1])")  # fmt: skip
def _scan_proto(data, starts, ends, table, names, kinds, values, status, where):
    base, limit = address_of(data), address_of(data) + data.size
    numbers = np.zeros(DEEPEST, np.int64)
    for record in range(starts.size):
        at, end, guess = base + starts[record], base + ends[record], 0
        here = at
        while at >= 0 and at < end:
            here = at
            at, tag = _read_tag(at, end)
            if at < 0:
                break
            wire = tag & 7
            row = _find(table, tag >> 3, wire, guess)
            if wire == _CLOSE:
                at = -BAD_GROUP
                break
            if row < 0 or table[row, 2] < 0:
                at = _skip_group(at, end, tag >> 3, numbers) if wire == _OPEN else _skip(at, end, wire)
                if row < 0 or at < 0:
                    continue
            guess = row + 1
            holds, field = table[row, 1], table[row, 2]
            kind, value = MISSING, np.int64(0)
            if field < 0:
                pass
            elif wire == _VARINT:
                at, bits = read_varint(at, end)
                kind, value = _varint_value(holds, bits, table[row, 4], table[row, 5], names)
            elif wire == _LENGTH:
                at, length = read_varint(at, end)
                size = np.int64(length)
                if at >= 0 and length > np.uint64(end - at):
                    at = -ENDS_EARLY
                elif at >= 0 and holds == TIMESTAMP:
                    kind = STAMP
                    at, value = _read_timestamp(at, at + size, numbers)
                elif at >= 0:
                    kind, value = TEXT, (at - base) << 32 | size
                    at = at + size if check_utf8(at, at + size, limit) else -NOT_UTF8
            else:
                size = np.int64(8 if wire == _EIGHT else 4)
                if end - at < size:
                    at = -ENDS_EARLY
                else:
                    kind, value = _fixed_value(holds, at)
                    at += size
            if field >= 0 and kind == MISSING:
                continue  # a name that the schema does not have: as if the field were unknown
            if table[row, 3] > 0:
                for other in range(table.shape[0]):
                    if table[other, 3] == table[row, 3] and table[other, 2] >= 0:
                        kinds[table[other, 2], record] = MISSING
            if field >= 0:
                kinds[field, record], values[field, record] = kind, value
        if at < 0:
            status[record] = -at
            where[record] = here - base - starts[record]
