"""How records and rows become the blobs that a log stores, and back: whole batches at a time, no loop over records."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import ConnectorError
from connectors.records import Int64s, Records

LINES, ROWS = "lines", "arrow"
BATCH_BYTES_MAX = 8 << 20  # larger appends become several stored batches: a reader starts in the middle cheaply
RECORD_BYTES_MAX = 256 << 20  # SQLite's blobs end at 1e9 bytes

Stored = list[tuple[int, "Batch"]]  # base offset, batch


@dataclass(frozen=True)
class Batch:
    """What a log stores as one row.

    Attributes:
        count: records in it.
        append_ms: when it was appended, milliseconds since the epoch.
        format: LINES (records one after the other) or ROWS (an Arrow IPC stream of one batch).
        lengths: LINES only: (count,) uint32, the bytes of each record.
        redriven: LINES only: (count,) int64 as in `Records.redriven_from`, None if none is.
    """

    count: int
    append_ms: int
    format: str
    payload: bytes | pa.Buffer
    lengths: bytes | None = None
    redriven: bytes | None = None

    def with_payload(self, payload: bytes) -> "Batch":
        """Return the same batch around other bytes."""
        return replace(self, payload=payload)


def pack_lines(
    values: pa.LargeBinaryArray | Sequence[bytes], append_ms: int, redriven_from: Int64s | Sequence[int] | None = None
) -> list[Batch]:
    r"""Pack records, each ending in a newline (added where missing), into batches of about BATCH_BYTES_MAX.

    A newline inside a record stays: the lengths, not the newlines, say where records end.

    Raises:
        ConnectorError: a value is null or larger than RECORD_BYTES_MAX, or `redriven_from` has another length.

    >>> [bytes(batch.payload) for batch in pack_lines([b"a", b"b\n"], append_ms=0)]
    [b'a\nb\n']
    """
    lines, bounds = _with_newlines(values)
    lengths = np.diff(bounds)
    if lengths.size and lengths.max() > RECORD_BYTES_MAX:
        index = int(lengths.argmax())
        raise ConnectorError(
            f"record {index} of an append has {lengths[index]:,} bytes; the log takes {RECORD_BYTES_MAX:,} at most: "
            f"split it or keep it elsewhere"
        )
    origins = None if redriven_from is None else np.ascontiguousarray(redriven_from, dtype=np.int64)
    if origins is not None and origins.size != lengths.size:
        raise ConnectorError(f"redriven_from has {origins.size} offsets for {lengths.size} records; give one for each")
    small = lengths.astype(np.uint32)
    batches = []
    for first, last in _runs(bounds):
        start = int(bounds[first])
        payload = lines.slice(start, int(bounds[last]) - start)
        origin = None if origins is None or (origins[first:last] < 0).all() else origins[first:last].tobytes()
        batches.append(Batch(last - first, int(append_ms), LINES, payload, small[first:last].tobytes(), origin))
    return batches


def pack_rows(rows: pa.RecordBatch, append_ms: int) -> list[Batch]:
    """Pack rows as Arrow IPC, in halves while larger than BATCH_BYTES_MAX; [] if there are none."""
    if not rows.num_rows:
        return []
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    payload = sink.getvalue()
    if payload.size > BATCH_BYTES_MAX and rows.num_rows > 1:
        half = rows.num_rows // 2
        return pack_rows(rows.slice(0, half), append_ms) + pack_rows(rows.slice(half), append_ms)
    if payload.size > RECORD_BYTES_MAX:
        raise ConnectorError(
            f"one row has {payload.size:,} bytes; the log takes {RECORD_BYTES_MAX:,} at most: keep it elsewhere"
        )
    return [Batch(rows.num_rows, int(append_ms), ROWS, payload)]


def unpack_lines(topic: str, partition: int, stored: Stored, offset: int, limit: int) -> Records:
    """Join consecutive stored batches and cut out the records offset..offset + limit; one copy, none for one batch.

    Raises:
        ConnectorError: a batch holds rows.
    """
    for base, batch in stored:
        if batch.format != LINES:
            raise ConnectorError(f"topic {topic!r} holds rows at offset {base}, not lines; read it with read_rows")
    counts = [batch.count for _, batch in stored]
    skip = offset - stored[0][0] if stored else 0
    take = min(limit, sum(counts) - skip) if stored else 0
    lengths = np.frombuffer(b"".join(batch.lengths or b"" for _, batch in stored), dtype=np.uint32)
    bounds = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    cut = bounds[skip : skip + take + 1]
    data = _joined([batch.payload for _, batch in stored]).slice(int(cut[0]), int(cut[-1] - cut[0]))
    ends = pa.py_buffer(np.ascontiguousarray(cut - cut[0]))
    return Records(
        topic=topic,
        partition=partition,
        values=pa.LargeBinaryArray.from_buffers(pa.large_binary(), take, [None, ends, data]),
        offsets=np.arange(offset, offset + take, dtype=np.int64),
        append_ms=np.repeat(np.array([b.append_ms for _, b in stored], np.int64), counts)[skip : skip + take],
        redriven_from=_origins([batch for _, batch in stored], skip, take),
    )


def unpack_rows(topic: str, stored: Stored, offset: int, limit: int) -> list[tuple[int, pa.RecordBatch]]:
    """Decode consecutive stored batches without a copy and cut out the rows offset..offset + limit.

    Raises:
        ConnectorError: a batch holds lines.
    """
    found = []
    for base, batch in stored:
        if batch.format != ROWS:
            raise ConnectorError(f"topic {topic!r} holds lines at offset {base}, not rows; read it with read")
        first = max(offset - base, 0)
        last = min(offset + limit - base, batch.count)
        if first < last:
            with pa.ipc.open_stream(batch.payload) as reader:
                found.append((base + first, reader.read_next_batch().slice(first, last - first)))
    return found


def _with_newlines(values: pa.LargeBinaryArray | Sequence[bytes]) -> tuple[pa.Buffer, Int64s]:
    """Return the bytes of all records, each ending in a newline, and (records + 1,) where they start and end."""
    array = values if isinstance(values, pa.LargeBinaryArray) else pa.array(values, pa.large_binary())
    if array.null_count:
        index = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise ConnectorError(f"record {index} of an append is null; give bytes for every record")
    lines, bounds = _buffers(array)
    if not bounds.size or bounds[0] == bounds[-1]:
        bare = np.ones(len(array), bool)
    else:
        last = np.frombuffer(lines, np.uint8)[np.maximum(bounds[1:] - 1, 0)]
        bare = (last != ord("\n")) | (bounds[1:] == bounds[:-1])
    if bare.any():
        newline = pa.scalar(b"\n", pa.large_binary())
        nothing = pa.scalar(b"", pa.large_binary())
        end = newline if bare.all() else pc.if_else(pa.array(bare), newline, nothing)
        lines, bounds = _buffers(pc.binary_join_element_wise(array, end, nothing))
    return lines, bounds


def _buffers(array: pa.LargeBinaryArray) -> tuple[pa.Buffer, Int64s]:
    _, ends, data = array.buffers()
    if not len(array):
        return pa.py_buffer(b""), np.zeros(1, np.int64)
    bounds = np.frombuffer(ends, np.int64)[array.offset : array.offset + len(array) + 1]
    return data if data is not None else pa.py_buffer(b""), bounds


def _runs(bounds: Int64s) -> list[tuple[int, int]]:
    """Return (first, last) record ranges of at most BATCH_BYTES_MAX bytes, or of one record."""
    runs, first, records = [], 0, bounds.size - 1
    while first < records:
        fits = int(np.searchsorted(bounds, bounds[first] + BATCH_BYTES_MAX, side="right")) - 1
        last = min(max(fits, first + 1), records)
        runs.append((first, last))
        first = last
    return runs


def _joined(payloads: list[bytes | pa.Buffer]) -> pa.Buffer:
    return pa.py_buffer(payloads[0] if len(payloads) == 1 else b"".join(payloads))


def _origins(batches: list[Batch], skip: int, take: int) -> Int64s | None:
    if not any(batch.redriven for batch in batches):
        return None
    parts = [
        np.full(batch.count, -1, np.int64) if batch.redriven is None else np.frombuffer(batch.redriven, np.int64)
        for batch in batches
    ]
    return np.concatenate(parts)[skip : skip + take]
