"""Messages as columns: what a broker sent becomes arrays, and arrays become what a broker takes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.kafka.compression import compressed, decompressed
from connectors.log import LogError
from connectors.records import Int64s
from kernels import record_batch as rb
from kernels.crc32c import crc32c
from kernels.record_batch import Pieces

BATCH_BYTES_MAX = 900_000  # of one batch, uncompressed: brokers take 1 MiB if they are not told otherwise
BATCH_RECORDS_MAX = 100_000
_HEADER = struct.Struct(">qiibIhiqqqhii")
_OWNER = struct.Struct(">qhi")
_CHECKSUM = struct.Struct(">I")

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Part:
    """Records that lie in one buffer; `table` as of `kernels.record_batch.read_records`."""

    data: Bytes
    table: Int64s
    are_claimed: bool


@dataclass(frozen=True)
class Messages:
    """Consecutive messages of one topic and partition, offsets rising, with gaps.

    Attributes:
        start, end: the offsets that were looked at: all messages in start..end are here.
    """

    parts: tuple[_Part, ...]
    start: int
    end: int

    def __len__(self) -> int:
        return sum(len(part.table) for part in self.parts)

    @property
    def offsets(self) -> Int64s:
        """(messages,) int64."""
        return self._column(rb.OFFSET)

    @property
    def times_ms(self) -> Int64s:
        """(messages,) int64: when the broker took each, or its producer sent it, as the topic says."""
        return self._column(rb.TIME_MS)

    @property
    def are_claimed(self) -> bool:
        """Whether producers said any of the times."""
        return any(part.are_claimed for part in self.parts)

    @property
    def size(self) -> int:
        """The bytes held, about."""
        return sum(part.data.nbytes + part.table.nbytes for part in self.parts)

    @property
    def values(self) -> pa.LargeBinaryArray:
        """(messages,) the values in one buffer; a null is empty."""
        return self._binary([(part.data, part.table[:, rb.VALUE], part.table[:, rb.VALUE_SIZE]) for part in self.parts])

    @property
    def keys(self) -> pa.LargeBinaryArray:
        """(messages,) the keys; none is null."""
        return self._binary(
            [(part.data, part.table[:, rb.KEY], part.table[:, rb.KEY_SIZE]) for part in self.parts], nulls=True
        )

    @property
    def have_headers(self) -> bool:
        """Whether any message has a header."""
        return any(bool(part.table[:, rb.HEADER_COUNT].any()) for part in self.parts)

    def header(self, name: str) -> pa.LargeBinaryArray:
        """Return (messages,) the first header of that name; none is null."""
        wanted = name.encode()
        return self._binary([(part.data, *rb.find_header(part.data, part.table, wanted)) for part in self.parts],
                            nulls=True)  # fmt: skip

    def cut(self, offset: int, limit: int) -> Messages:
        """Return at most `limit` messages from an offset on; `end` is behind the last if some were left out."""
        parts: list[_Part] = []
        end = self.end
        for part in self.parts:
            first = int(np.searchsorted(part.table[:, rb.OFFSET], offset))
            last = min(first + limit, len(part.table))
            if first < last:
                parts.append(replace(part, table=part.table[first:last]))
                limit -= last - first
            if last < len(part.table):
                end = int(part.table[last, rb.OFFSET])
                break
        return Messages(tuple(parts), max(offset, self.start), end)

    def followed_by(self, other: Messages) -> Messages:
        """Return both; the other one begins where this one ends."""
        return replace(self, parts=self.parts + other.parts, end=other.end)

    def _column(self, place: int) -> Int64s:
        if not self.parts:
            return np.zeros(0, np.int64)
        if len(self.parts) == 1:
            return np.ascontiguousarray(self.parts[0].table[:, place])
        return np.concatenate([part.table[:, place] for part in self.parts])

    @staticmethod
    def _binary(pieces: Sequence[tuple[Bytes, Int64s, Int64s]], nulls: bool = False) -> pa.LargeBinaryArray:
        gathered = [rb.gather(data, starts, sizes) for data, starts, sizes in pieces]
        if not gathered:
            return pa.array([], pa.large_binary())
        bounds, data = gathered[0]
        if len(gathered) > 1:
            shifts = np.cumsum([0, *(each[0][-1] for each in gathered)])
            bounds = np.concatenate([each[0][bool(i) :] + shifts[i] for i, each in enumerate(gathered)])
            data = np.concatenate([each[1] for each in gathered])
        missing = np.concatenate([sizes < 0 for _, _, sizes in pieces]) if nulls else np.zeros(0, bool)
        valid = pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None
        buffers = [valid, pa.py_buffer(bounds), pa.py_buffer(data)]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), bounds.size - 1, buffers)


def read_messages(
    data: bytes, start: int, aborted: Iterable[tuple[int, int]] = (), where: str = "", isolated: bool = True
) -> Messages:
    """Decode what a broker sent for one partition.

    Args:
        data: record batches; the last one may be cut off.
        start: the offset that was asked for: the first batch may begin before.
        aborted: (producer id, first offset) of transactions that were aborted.
        where: topic and partition, for messages.
        isolated: leave out what aborted transactions wrote.

    Returns:
        Messages from `start` on; `end` is behind the last whole batch.

    Raises:
        LogError: a checksum is wrong, or the batches are of a format before Kafka 0.11.
    """
    block = np.frombuffer(data, np.uint8)
    waiting = sorted(aborted, key=lambda each: each[1])
    dead: set[int] = set()
    parts, end = [], start
    for header in rb.read_headers(block):
        base, attributes, producer = int(header[rb.BASE_OFFSET]), int(header[rb.ATTRIBUTES]), int(header[rb.PRODUCER])
        _check(block, header, where)
        end = max(end, base + int(header[rb.LAST_DELTA]) + 1)
        while waiting and waiting[0][1] <= base:
            dead.add(waiting.pop(0)[0])
        if attributes & rb.CONTROL:
            if isolated and producer in dead and _is_abort(block, header):
                dead.discard(producer)
            continue
        if isolated and attributes & rb.TRANSACTIONAL and producer in dead:
            continue
        part = _part(block, header)
        first = int(np.searchsorted(part.table[:, rb.OFFSET], start))
        if first < len(part.table):
            parts.append(replace(part, table=part.table[first:]))
    return Messages(tuple(_joined(parts)), start, max(end, start))


def _joined(parts: list[_Part]) -> list[_Part]:
    """Join parts in the same buffer: many small batches then cost little more than a large one."""
    joined: list[_Part] = []
    first = 0
    for place in range(1, len(parts) + 1):
        if place == len(parts) or not _are_alike(parts[place], parts[first]):
            tables = [part.table for part in parts[first:place]]
            joined.append(replace(parts[first], table=tables[0] if len(tables) == 1 else np.concatenate(tables)))
            first = place
    return joined


def _are_alike(part: _Part, other: _Part) -> bool:
    return part.data is other.data and part.are_claimed == other.are_claimed


def _check(block: Bytes, header: Int64s, where: str) -> None:
    if header[rb.FORMAT] != 2:
        raise LogError(
            f"{where}: the batch at offset {header[rb.BASE_OFFSET]} has format {header[rb.FORMAT]}, of Kafka before "
            f"0.11; write the records again with a newer producer"
        )
    if crc32c(block[header[rb.START] + rb.ATTRIBUTES_AT : header[rb.END]]) != header[rb.CHECKSUM]:
        raise LogError(
            f"{where}: the batch at offset {header[rb.BASE_OFFSET]} has a wrong checksum; "
            f"check the broker's disk, and read from a replica"
        )


def _part(block: Bytes, header: Int64s) -> _Part:
    attributes = int(header[rb.ATTRIBUTES])
    data, start = block, int(header[rb.START]) + rb.HEADER_BYTES
    if attributes & rb.COMPRESSION:
        packed = block[start : header[rb.END]].tobytes()
        data, start = np.frombuffer(decompressed(packed, attributes & rb.COMPRESSION), np.uint8), 0
    table = rb.read_records(data, start, int(header[rb.COUNT]), int(header[rb.BASE_OFFSET]), int(header[rb.FIRST_MS]))
    if attributes & rb.LOG_APPEND_TIME:
        table[:, rb.TIME_MS] = header[rb.MAX_MS]
    return _Part(data, table, not attributes & rb.LOG_APPEND_TIME)


def _is_abort(block: Bytes, header: Int64s) -> bool:
    """Tell whether a control batch aborts a transaction: its key is a version and a kind, two bytes each."""
    table = rb.read_records(block, int(header[rb.START]) + rb.HEADER_BYTES, 1, 0, 0)
    key = int(table[0, rb.KEY])
    return bytes(block[key + 2 : key + 4]) == b"\x00\x00"


@dataclass(frozen=True)
class Outgoing:
    """Messages on their way to one partition.

    Attributes:
        values: (messages,) without nulls.
        keys: (messages,) without nulls; None for no keys.
        headers: (messages,) each as `packed_headers` writes them; None for no headers.
        append_ms: the producer's time of all of them, which topics with LogAppendTime replace.
    """

    values: pa.LargeBinaryArray
    append_ms: int
    keys: pa.LargeBinaryArray | None = None
    headers: pa.LargeBinaryArray | None = None

    def batches(self, compression: int = 0) -> list[OutgoingBatch]:
        """Return the messages as batches that a broker takes, each of BATCH_BYTES_MAX or of one message."""
        values = _pieces(self.values)
        keys = _pieces(self.keys) if self.keys is not None else None
        headers = _pieces(self.headers) if self.headers is not None else None
        ends = sum(part.bounds for part in (values, keys, headers) if part is not None)
        ends = ends + np.arange(values.bounds.size) * 12  # about what Kafka adds to each
        made, first, count = [], 0, values.bounds.size - 1
        while first < count:
            fits = int(np.searchsorted(ends, ends[first] + BATCH_BYTES_MAX, side="right")) - 1
            last = min(max(fits, first + 1), count, first + BATCH_RECORDS_MAX)
            made.append(_packed(rb.write_records(values, keys, headers, first, last), last - first, self.append_ms,
                                compression))  # fmt: skip
            first = last
        return made


@dataclass(frozen=True)
class OutgoingBatch:
    """A batch, whole but for who sends it."""

    data: bytearray
    count: int

    def sent_by(self, producer: int, epoch: int, sequence: int, *, transactional: bool) -> bytearray:
        """Return the bytes with their sender and checksum."""
        _OWNER.pack_into(self.data, rb.PRODUCER_AT, producer, epoch, sequence)
        self.data[rb.ATTRIBUTES_AT + 1] = self.data[rb.ATTRIBUTES_AT + 1] & ~rb.TRANSACTIONAL | (
            rb.TRANSACTIONAL if transactional else 0
        )
        checksum = crc32c(np.frombuffer(self.data, np.uint8)[rb.ATTRIBUTES_AT :])
        _CHECKSUM.pack_into(self.data, rb.CRC_AT, checksum)
        return self.data


def _packed(records: Bytes, count: int, append_ms: int, compression: int) -> OutgoingBatch:
    data = bytearray(records.tobytes())
    if compression:
        smaller = compressed(records[rb.HEADER_BYTES :].tobytes(), compression)
        if len(smaller) < len(data) - rb.HEADER_BYTES:
            data = data[: rb.HEADER_BYTES] + smaller
        else:
            compression = 0
    header = (0, len(data) - 12, -1, 2, 0, compression, count - 1, append_ms, append_ms, -1, -1, -1, count)
    _HEADER.pack_into(data, 0, *header)
    return OutgoingBatch(data, count)


def _pieces(array: pa.LargeBinaryArray) -> Pieces:
    _, ends, data = array.buffers()
    if not len(array):
        return Pieces(np.zeros(1, np.int64), np.zeros(0, np.uint8))
    bounds = np.frombuffer(ends, np.int64)[array.offset : array.offset + len(array) + 1]
    return Pieces(bounds, np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8))


def packed_headers(headers: Iterable[tuple[str, bytes | None]]) -> bytes:
    """Write the headers of one message in Kafka's format."""
    told = list(headers)
    out = bytearray(_varint(len(told)))
    for name, value in told:
        key = name.encode()
        out += _varint(len(key)) + key + _varint(-1 if value is None else len(value)) + (value or b"")
    return bytes(out)


def _varint(value: int) -> bytes:
    word = value << 1 ^ value >> 63
    out = bytearray()
    while word > 0x7F:
        out.append(word & 0x7F | 0x80)
        word >>= 7
    out.append(word)
    return bytes(out)
