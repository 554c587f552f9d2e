"""What the binary formats share: checked varints and UTF-8, frames of a schema registry, and the cells they give.

Parts take addresses, `at` and `end` (behind the record), and return (where it ends, value), or (-status, 0).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.cells import ABSENT, GOOD, WRONG_KIND, States
from kernels.compiled import njit
from kernels.json_tokens import MISSING, NULL, TEXT, skip_utf8
from kernels.parts import hot, part
from kernels.words import BYTES, HIGHS, INT64S, address_of, load_byte, load_word, store_word

# Kinds of values beside those of JSON: a time in milliseconds, a name from the schema, a decimal that needs care.
STAMP, SYMBOL, HARD_DECIMAL = range(20, 23)

# What can be wrong with a record, beside what JSON knows.
(NO_MAGIC, SHORT_HEAD, BAD_INDEXES, BAD_VARINT, BAD_LENGTH, BAD_BRANCH, BAD_SYMBOL, BAD_BOOL, LEFT_OVER, BAD_TAG,
 BAD_GROUP, ENDS_EARLY, NOT_UTF8, NESTED_TOO_DEEP, RECORD_TOO_LONG, RECORD_EMPTY) = range(40, 56)  # fmt: skip

HEAD_BYTES = 5  # magic byte and schema id
PATH_MAX = 4  # levels of messages inside messages that an index may lead through
_INDEX_MAX = 254
_APART = 72  # cells behind each field's: with 65,536 records all fields would else share a few lines of the cache


class WireCells(NamedTuple):
    """The values of some records.

    Attributes:
        kinds: (fields, records + some more) uint8: MISSING, NULL, ... of `kernels.json_tokens`, or one of the above.
        values: like kinds, int64: of an INTEGER or STAMP the value, of a FLOAT its bits, of TEXT its place in
            the data and its size (place << 32 | size), of a SYMBOL the same in the names of the schema.
        status: (records,) uint8: 0, or why the record is broken. Its cells then mean nothing.
        where: (records,) int32: the byte, counted from where the record's own bytes start, at which that was seen.
    """

    kinds: NDArray[np.uint8]
    values: NDArray[np.int64]
    status: NDArray[np.uint8]
    where: NDArray[np.int32]


def empty_wire_cells(fields: int, records: int) -> WireCells:
    """Return cells of which all are missing."""
    shape = (fields, records + _APART)
    kinds, values = np.zeros(shape, np.uint8), np.empty(shape, np.int64)
    return WireCells(kinds, values, np.zeros(records, np.uint8), np.zeros(records, np.int32))


class Frames(NamedTuple):
    """The heads of some records.

    Attributes:
        keys: (records,) int64: schema id << 32 | path of the message, one byte per level: its index + 1.
        starts: (records,) int64: where the record's own bytes start.
        status: (records,) uint8: 0, or why there is no head.
    """

    keys: NDArray[np.int64]
    starts: NDArray[np.int64]
    status: NDArray[np.uint8]


def read_frames(data: NDArray[np.uint8], offsets: NDArray[np.int64], has_path: bool, bytes_max: int) -> Frames:
    """Read the heads of records in the wire format of Confluent: 0, the id (4 bytes, big-endian), of Protobuf a path.

    Args:
        data: (bytes,) uint8, below 2 GiB.
        offsets: (records + 1,) int64, never decreasing, within `data`.
        has_path: whether the indexes of the message follow the id.
        bytes_max: a longer record is not looked at.
    """
    if data.size >= 1 << 31:
        raise ValueError(f"the block has {data.size} bytes; read fewer than 2 GiB at once")
    if offsets[0] < 0 or offsets[-1] > data.size:
        raise ValueError(f"offsets run from {offsets[0]} to {offsets[-1]}, outside the {data.size} bytes of data")
    records = offsets.size - 1
    frames = Frames(np.zeros(records, np.int64), np.zeros(records, np.int64), np.zeros(records, np.uint8))
    _read_frames(data, offsets, has_path, bytes_max, *frames)
    return frames


def read_wire_text(
    data: NDArray[np.uint8], names: NDArray[np.uint8], kinds: NDArray[np.uint8], values: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.uint8], States]:
    """Copy TEXT and SYMBOL cells: offsets (records + 1,) int32, their bytes, and states of `kernels.cells`.

    Args:
        data: (bytes,) uint8, what was scanned.
        names: (bytes,) uint8, where symbols lie.
        kinds, values: (records,) of one field, as in `WireCells`.
    """
    sizes = values & 0xFFFFFFFF
    room = int(np.sum(sizes, where=(kinds == TEXT) | (kinds == SYMBOL))) + 8
    offsets, out = np.zeros(kinds.size + 1, np.int32), np.empty(room, np.uint8)
    states = np.empty(kinds.size, np.uint8)
    size: int = _read_wire_text(data, names, kinds, values, offsets, out, states)
    return offsets, out[:size], states


@hot
def read_varint(at, end):
    """Read up to 64 bits, seven a byte, the lowest first: (behind it, uint64)."""
    if at < end and load_byte(at) < 128:
        return at + 1, np.uint64(load_byte(at))
    value, shift = np.uint64(0), 0
    while at < end:
        byte = load_byte(at)
        at += 1
        value |= np.uint64(byte & 127) << np.uint64(shift)
        if byte < 128:
            return at, value  # bits above the 64th are dropped, as Google's parser does
        if shift == 63:
            return -BAD_VARINT, np.uint64(0)
        shift += 7
    return -ENDS_EARLY, np.uint64(0)


@hot
def read_zigzag(at, end):
    """Read a varint whose lowest bit is the sign: (behind it, int64)."""
    at, bits = read_varint(at, end)
    return at, np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1))


@hot
def check_utf8(at, end, limit):
    """Tell whether the bytes up to `end` are UTF-8; whole words may be loaded up to `limit`."""
    while at < end:
        if at + 8 <= limit:
            high = load_word(at) & HIGHS
            if at + 8 > end:
                high &= (np.uint64(1) << np.uint64(8 * (end - at))) - np.uint64(1)
            if high == np.uint64(0):
                at += 8
                continue
        if load_byte(at) < 128:
            at += 1
            continue
        behind = skip_utf8(at, end)
        if behind == at:
            return False
        at = behind
    return True


@part
def _read_path(at, end):
    """Read the indexes of a message: their number, then each, all zigzag; one 0 stands for the first message."""
    at, count = read_zigzag(at, end)
    if at < 0:
        return at, np.int64(0)
    if count == 0:
        return at, np.int64(1)
    if count < 0 or count > PATH_MAX:
        return -BAD_INDEXES, np.int64(0)
    path = np.int64(0)
    for _ in range(count):
        at, index = read_zigzag(at, end)
        if at < 0:
            return at, np.int64(0)
        if index < 0 or index >= _INDEX_MAX:
            return -BAD_INDEXES, np.int64(0)
        path = path << 8 | (index + 1)
    return at, path


@njit(f"void({BYTES}, {INT64S}, boolean, int64, int64[::1], int64[::1], uint8[::1])")
def _read_frames(data, offsets, has_path, bytes_max, keys, starts, status):
    base = address_of(data)
    for record in range(keys.size):
        at, end = base + offsets[record], base + offsets[record + 1]
        starts[record] = offsets[record]
        if at == end:
            status[record] = RECORD_EMPTY
            continue
        if end - at > bytes_max:
            status[record] = RECORD_TOO_LONG
            continue
        if load_byte(at) != 0:
            status[record] = NO_MAGIC
            continue
        if end - at < HEAD_BYTES:
            status[record] = SHORT_HEAD
            continue
        schema_id = load_byte(at + 1) << 24 | load_byte(at + 2) << 16 | load_byte(at + 3) << 8 | load_byte(at + 4)
        at += HEAD_BYTES
        path = np.int64(0)
        if has_path:
            at, path = _read_path(at, end)
            if at < 0:
                status[record] = SHORT_HEAD if at == -ENDS_EARLY else BAD_INDEXES
                continue
        keys[record] = schema_id << 32 | path
        starts[record] = at - base


@njit(f"int64({BYTES}, {BYTES}, {BYTES}, {INT64S}, int32[::1], uint8[::1], uint8[::1])")
def _read_wire_text(data, names, kinds, values, offsets, out, states):
    base, limit, target = address_of(data), address_of(data) + data.size, address_of(out)
    name_base, size = address_of(names), 0
    for i in range(kinds.size):
        kind = kinds[i]
        states[i] = GOOD
        if kind == TEXT:
            at = base + (values[i] >> 32)
            end = at + (values[i] & 0xFFFFFFFF)
            copied = target + size
            size += end - at
            while at < end and at + 8 <= limit:  # may write 7 bytes too many: the next text, or the room, takes them
                store_word(copied, load_word(at))
                at, copied = at + 8, copied + 8
            while at < end:
                out[copied - target] = load_byte(at)
                at, copied = at + 1, copied + 1
        elif kind == SYMBOL:
            at = name_base + (values[i] >> 32)
            for j in range(values[i] & 0xFFFFFFFF):
                out[size + j] = load_byte(at + j)
            size += values[i] & 0xFFFFFFFF
        else:
            states[i] = ABSENT if kind in (MISSING, NULL) else WRONG_KIND
        offsets[i + 1] = size
    return size
