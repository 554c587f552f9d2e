"""Kafka's record batches (format 2) as columns: whole batches in and out, no object per record.

Source: the Kafka protocol guide, "Record Batch" and "Record" (kafka.apache.org/documentation/#messageformat).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import njit
from kernels.words import BYTES, INT64S, address_of, load_byte, load_word, store_byte, store_word

HEADER_BYTES = 61  # of a batch, before its records
CRC_AT, ATTRIBUTES_AT, PRODUCER_AT = 17, 21, 43  # bytes into a batch
COMPRESSION, LOG_APPEND_TIME, TRANSACTIONAL, CONTROL = 0x07, 0x08, 0x10, 0x20  # bits of a batch's attributes
RECORD_OVERHEAD_MAX = 32  # bytes around a record's key, value and headers

# Columns of `read_headers`.
START, END, BASE_OFFSET, FORMAT, CHECKSUM, ATTRIBUTES, LAST_DELTA, FIRST_MS, MAX_MS, PRODUCER, COUNT = range(11)
# Columns of `Positions.table`.
OFFSET, TIME_MS, KEY, KEY_SIZE, VALUE, VALUE_SIZE, HEADERS, HEADER_COUNT = range(8)

Bytes = NDArray[np.uint8]
Int64s = NDArray[np.int64]


def read_headers(data: Bytes) -> Int64s:
    """Return what the headers of consecutive batches say; a batch that is cut off at the end is left out.

    Args:
        data: (bytes,) uint8, as a broker sends it.

    Returns:
        (batches, 11) int64: START and END in `data`, and what Kafka's format calls the rest.
    """
    table = np.empty((max(data.size // HEADER_BYTES, 1), 11), np.int64)
    return table[: _read_headers(data, table)]


def read_records(data: Bytes, start: int, count: int, base_offset: int, first_ms: int) -> Int64s:
    """Find the parts of each record of one batch.

    Args:
        data: (bytes,) uint8.
        start: where the first record starts, decompressed.
        count: records in the batch.
        base_offset, first_ms: of the batch's header; a record holds differences to them.

    Returns:
        (count, 8) int64: OFFSET, TIME_MS, where KEY, VALUE and HEADERS start in `data`, sizes (-1 for null), and how
        many headers follow.

    Raises:
        ValueError: the bytes are not `count` records.
    """
    table = np.empty((count, 8), np.int64)
    bad = _read_records(data, start, base_offset, first_ms, table)
    if bad >= 0:
        raise ValueError(f"record {bad} of {count} in the batch at offset {base_offset} cannot be read")
    return table


def gather(data: Bytes, starts: Int64s, sizes: Int64s) -> tuple[Int64s, Bytes]:
    """Copy pieces of `data` behind one another.

    Args:
        starts, sizes: (pieces,) a size below 0 means none.

    Returns:
        (pieces + 1,) where each piece starts and ends, and their bytes.
    """
    bounds = np.zeros(starts.size + 1, np.int64)
    np.cumsum(np.maximum(sizes, 0), out=bounds[1:])
    out = np.empty(int(bounds[-1]), np.uint8)
    _gather(data, np.ascontiguousarray(starts), bounds, out)
    return bounds, out


def find_header(data: Bytes, table: Int64s, name: bytes) -> tuple[Int64s, Int64s]:
    """Find one header in each record: (records,) where its value starts, and its size, -1 for null or not there."""
    starts, sizes = np.zeros(len(table), np.int64), np.full(len(table), -1, np.int64)
    wanted = np.frombuffer(name, np.uint8)
    _find_header(data, np.ascontiguousarray(table[:, HEADERS]), np.ascontiguousarray(table[:, HEADER_COUNT]), wanted,
                 starts, sizes)  # fmt: skip
    return starts, sizes


@dataclass(frozen=True)
class Pieces:
    """Byte strings in one buffer: string i is data[bounds[i]:bounds[i + 1]]."""

    bounds: Int64s
    data: Bytes


def write_records(values: Pieces, keys: Pieces | None, headers: Pieces | None, first: int, last: int) -> Bytes:
    """Write the records first..last of a batch, all with the batch's own time.

    Args:
        values: of all records.
        keys: of all records, None if they have none.
        headers: of all records as bytes of the format, their count first; None if they have none.

    Returns:
        (HEADER_BYTES + bytes,) with room for the header.
    """
    size = sum(int(part.bounds[last] - part.bounds[first]) for part in (values, keys, headers) if part is not None)
    out = np.empty(HEADER_BYTES + size + (last - first) * RECORD_OVERHEAD_MAX, np.uint8)
    none = Pieces(np.zeros(0, np.int64), np.zeros(0, np.uint8))
    key, head = keys or none, headers or none
    end = _write_records(values.bounds, values.data, key.bounds, key.data, head.bounds, head.data, first, last, out)
    return out[:end]


@njit(f"int64({BYTES}, int64[:, ::1])")
def _read_headers(data, table):
    found, at = 0, 0
    while at + HEADER_BYTES <= data.size:
        end = at + 12 + _big(data, at + 8, 4)
        if end > data.size or end <= at + 12:
            break
        row = table[found]
        row[START], row[END] = at, end
        row[BASE_OFFSET], row[FORMAT] = _big(data, at, 8), data[at + 16]
        row[CHECKSUM] = _big(data, at + 17, 4) & 0xFFFFFFFF
        row[ATTRIBUTES], row[LAST_DELTA] = _big(data, at + 21, 2), _big(data, at + 23, 4)
        row[FIRST_MS], row[MAX_MS] = _big(data, at + 27, 8), _big(data, at + 35, 8)
        row[PRODUCER], row[COUNT] = _big(data, at + 43, 8), _big(data, at + 57, 4)
        found += 1
        at = end
    return found


@njit(f"int64({BYTES}, int64, int64)")
def _big(data, at, size):
    """Read a signed integer, its highest byte first."""
    value = np.int64(np.int8(data[at]))
    for place in range(at + 1, at + size):
        value = (value << 8) | np.int64(data[place])
    return value


@njit("Tuple((int64, int64))(int64, int64, int64)")
def _varint(base, at, end):
    """Read a variable-length integer and where it ends; an end beyond `end` if it is cut off or too long."""
    value, shift = np.uint64(0), np.uint64(0)
    while at < end and shift < np.uint64(64):
        byte = np.uint64(load_byte(base + at))
        value |= (byte & np.uint64(0x7F)) << shift
        at += 1
        if byte < np.uint64(0x80):
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), at
        shift += np.uint64(7)
    return 0, end + 1


@njit(f"int64({BYTES}, int64, int64, int64, int64[:, ::1])")
def _read_records(data, start, base_offset, first_ms, table):
    """Fill the table; return the first record that cannot be read, or -1."""
    base, at, size = address_of(data), start, data.size
    for i in range(len(table)):
        length, at = _varint(base, at, size)
        end = at + length
        if length < 0 or end > size or at > size:
            return i
        delta_ms, at = _varint(base, at + 1, end)
        delta, at = _varint(base, at, end)
        key_size, at = _varint(base, at, end)
        key = at
        if key_size > end - at:
            return i
        value_size, at = _varint(base, at + max(key_size, 0), end)
        value = at
        if value_size > end - at:
            return i
        header_count, at = _varint(base, at + max(value_size, 0), end)
        if at > end or header_count < 0:
            return i
        row = table[i]
        row[OFFSET], row[TIME_MS] = base_offset + delta, first_ms + delta_ms
        row[KEY], row[KEY_SIZE], row[VALUE], row[VALUE_SIZE] = key, key_size, value, value_size
        row[HEADERS], row[HEADER_COUNT] = at, header_count
        at = end
    return -1


@njit(f"void({BYTES}, {INT64S}, {INT64S}, uint8[::1])")
def _gather(data, starts, bounds, out):
    source, target = address_of(data), address_of(out)
    for i in range(starts.size):
        _copy(source + starts[i], target + bounds[i], bounds[i + 1] - bounds[i])


@njit("void(int64, int64, int64)")
def _copy(source, target, size):
    """Copy bytes from one address to another, by words; a slice of an array costs as much as 100 bytes."""
    if size < 8:
        for at in range(size):
            store_byte(target + at, load_byte(source + at))
        return
    at, last = 0, size - 8
    while at < last:
        store_word(target + at, load_word(source + at))
        at += 8
    store_word(target + last, load_word(source + last))  # over the end of the one before


@njit(f"void({BYTES}, {INT64S}, {INT64S}, {BYTES}, int64[::1], int64[::1])")
def _find_header(data, places, counts, name, starts, sizes):
    base, end = address_of(data), data.size
    for i in range(places.size):
        at = places[i]
        for _ in range(counts[i]):
            name_size, at = _varint(base, at, end)
            if name_size < 0 or name_size > end - at:
                break
            is_it = name_size == name.size
            place = 0
            while is_it and place < name.size:
                is_it = load_byte(base + at + place) == np.int64(name[place])
                place += 1
            value_size, at = _varint(base, at + name_size, end)
            if value_size > end - at:
                break
            if is_it:
                starts[i], sizes[i] = at, value_size
                break
            at += max(value_size, 0)


@njit("int64(int64)")
def _varint_size(value):
    word = np.uint64((value << 1) ^ (value >> 63))
    size = 1
    while word >= np.uint64(0x80):
        word >>= np.uint64(7)
        size += 1
    return size


@njit("int64(uint8[::1], int64, int64)")
def _put_varint(out, at, value):
    word = np.uint64((value << 1) ^ (value >> 63))
    while word >= np.uint64(0x80):
        out[at] = (word & np.uint64(0x7F)) | np.uint64(0x80)
        word >>= np.uint64(7)
        at += 1
    out[at] = word
    return at + 1


@njit(f"int64({INT64S}, {BYTES}, {INT64S}, {BYTES}, {INT64S}, {BYTES}, int64, int64, uint8[::1])")
def _write_records(values, value_data, keys, key_data, headers, header_data, first, last, out):
    """Write records behind the room for a header; return where they end."""
    at, target = HEADER_BYTES, address_of(out)
    value_base, key_base, header_base = address_of(value_data), address_of(key_data), address_of(header_data)
    for i in range(first, last):
        value_size = values[i + 1] - values[i]
        key_size = keys[i + 1] - keys[i] if keys.size else -1
        header_size = headers[i + 1] - headers[i] if headers.size else 1
        delta = i - first
        size = 2 + _varint_size(delta) + _varint_size(key_size) + max(key_size, 0)
        size += _varint_size(value_size) + value_size + header_size
        at = _put_varint(out, at, size)
        out[at], out[at + 1] = 0, 0  # no attributes; the batch's time
        at = _put_varint(out, at + 2, delta)
        at = _put_varint(out, at, key_size)
        if key_size > 0:
            _copy(key_base + keys[i], target + at, key_size)
            at += key_size
        at = _put_varint(out, at, value_size)
        _copy(value_base + values[i], target + at, value_size)
        at += value_size
        if headers.size:
            _copy(header_base + headers[i], target + at, header_size)
        else:
            out[at] = 0
        at += header_size
    return at
