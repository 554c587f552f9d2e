"""Rows as messages and back: JSON for everybody, original bytes with headers, or Arrow between our own stages."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from connectors.errors import ConnectorError
from connectors.json_text import json_objects
from connectors.kafka.messages import BATCH_BYTES_MAX, Messages, Outgoing, packed_headers
from connectors.log import LogError, Sealer
from connectors.records import Int64s

ROW_BITS = 20  # of an offset in a topic of Arrow batches: the row in its message
ROWS_MAX = 1 << ROW_BITS
SEALED = "pelton-sealed"
REDRIVEN = "pelton-redriven-from"
ARROW_MARK = b"\xff\xff\xff\xff"  # how an Arrow stream begins

Stored = list[tuple[int, pa.RecordBatch]]


def is_arrow(rows: pa.Schema | None) -> bool:
    """Tell whether a topic holds rows as Arrow batches; `rows` as of `Log.create_topic`, None for records."""
    return rows is not None and not {b"key", b"value"} & set(rows.metadata or {})


def rows_to_messages(
    rows: pa.RecordBatch, append_ms: int, schema: pa.Schema, seal: Callable[[bytes], bytes] | None
) -> list[Outgoing]:
    """Return rows as messages, in order.

    Args:
        schema: as of `Log.create_topic`.
        seal: encrypts each value; None leaves them.
    """
    if not rows.num_rows:
        return []
    if is_arrow(schema):
        return _arrow_messages(rows, append_ms, seal)
    column = _named(schema, "value")
    if column:
        values, headers = _letters(rows, column, sealed=seal is not None)
        return [Outgoing(_sealed(values, seal), append_ms, None, headers)]
    key = _named(schema, "key")
    keys = rows.column(key).cast(pa.large_binary()) if key else None
    if keys is not None and keys.null_count:
        keys = pc.fill_null(keys, pa.scalar(b"", pa.large_binary()))
    values = json_objects(rows).cast(pa.large_binary())
    return [Outgoing(_sealed(values, seal), append_ms, keys, _same_header(len(values)) if seal else None)]


def rows_from_messages(
    messages: Messages, offset: int, limit: int, schema: pa.Schema, opened: pa.LargeBinaryArray, topic: str
) -> Stored:
    """Return the rows from an offset on: batches of rows whose offsets follow one another, each with its first.

    Args:
        messages: that hold the rows.
        offset, limit: in rows.
        opened: the values, decrypted.

    Raises:
        LogError: a message is something else.
    """
    if not len(messages):
        return []
    if is_arrow(schema):
        return _rows_of_arrow(messages, offset, limit, opened, topic)
    offsets = messages.offsets
    rows = _rows_of_letters(messages, opened, schema) if _named(schema, "value") else _rows_of_json(
        opened, schema, topic, int(offsets[0]))  # fmt: skip
    return [(int(offsets[first]), rows.slice(first, last - first)) for first, last in runs(offsets)]


def runs(offsets: Int64s) -> list[tuple[int, int]]:
    """Return (first, last) of the stretches in which offsets have no gap.

    >>> runs(np.array([4, 5, 7]))
    [(0, 2), (2, 3)]
    """
    edges = np.flatnonzero(np.diff(offsets) != 1) + 1
    bounds = [0, *edges.tolist(), offsets.size]
    return [(first, last) for first, last in pairwise(bounds) if first < last]


def message_offset(row_offset: int, schema: pa.Schema | None) -> int:
    """Return the offset of the message that a row is in."""
    return row_offset >> ROW_BITS if is_arrow(schema) else row_offset


def row_offset(message: int, schema: pa.Schema | None) -> int:
    """Return the offset of a message's first row."""
    return message << ROW_BITS if is_arrow(schema) else message


def refuse_rows(topic: str, offsets: Int64s, values: pa.LargeBinaryArray) -> None:
    """Raise LogError if a message is an Arrow batch: whoever wants records would get nonsense."""
    _, ends, data = values.buffers()
    if not len(values) or data is None or data.size < len(ARROW_MARK):
        return
    starts = np.frombuffer(ends, np.int64)[: len(values)]
    block = np.frombuffer(data, np.uint8)
    for index in np.flatnonzero(block[np.minimum(starts, block.size - 1)] == ARROW_MARK[0])[:100]:
        if values[int(index)].as_py()[:4] == ARROW_MARK:
            raise LogError(f"topic {topic!r} holds rows at offset {offsets[index]}, not lines; read it with read_rows")


def opened(messages: Messages, values: pa.LargeBinaryArray, key: Callable[[], Sealer]) -> pa.LargeBinaryArray:
    """Return the values, those decrypted that were sealed; the key is asked for only then."""
    if not messages.have_headers:
        return values
    sealed = messages.header(SEALED).is_valid()
    if not pc.any(sealed).as_py():
        return values
    sealer = key()
    both = zip(values.to_pylist(), sealed.to_pylist(), strict=True)
    return pa.array([sealer.open(value) if closed else value for value, closed in both], pa.large_binary())


def redriven(messages: Messages) -> Int64s | None:
    """Return (messages,) as `Records.redriven_from`."""
    if not messages.have_headers:
        return None
    found = messages.header(REDRIVEN)
    if found.null_count == len(found):
        return None
    return pc.fill_null(found.cast(pa.large_string()).cast(pa.int64()), -1).to_numpy()


def redriven_headers(count: int, redriven_from: Int64s | None, *, sealed: bool) -> pa.LargeBinaryArray | None:
    """Return (messages,) headers that say where records come from, None if there is nothing to say."""
    if redriven_from is None or (redriven_from < 0).all():
        return _same_header(count) if sealed else None
    always: list[tuple[str, bytes | None]] = [(SEALED, b"1")] if sealed else []
    packed = [
        packed_headers([*always, (REDRIVEN, str(origin).encode())] if origin >= 0 else always)
        for origin in redriven_from.tolist()
    ]
    return pa.array(packed, pa.large_binary())


def sealed_values(values: pa.LargeBinaryArray, seal: Callable[[bytes], bytes] | None) -> pa.LargeBinaryArray:
    """Return the values encrypted, each by itself."""
    return _sealed(values, seal)


def _sealed(values: pa.LargeBinaryArray, seal: Callable[[bytes], bytes] | None) -> pa.LargeBinaryArray:
    return values if seal is None else pa.array([seal(value) for value in values.to_pylist()], pa.large_binary())


def _same_header(count: int) -> pa.LargeBinaryArray:
    return pa.array([packed_headers([(SEALED, b"1")])] * count, pa.large_binary())


def _named(schema: pa.Schema, name: str) -> str:
    return (schema.metadata or {}).get(name.encode(), b"").decode()


def _arrow_messages(rows: pa.RecordBatch, append_ms: int, seal: Callable[[bytes], bytes] | None) -> list[Outgoing]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    payload = sink.getvalue()
    if (payload.size > BATCH_BYTES_MAX or rows.num_rows > ROWS_MAX) and rows.num_rows > 1:
        half = rows.num_rows // 2
        parts = (rows.slice(0, half), rows.slice(half))
        return [each for part in parts for each in _arrow_messages(part, append_ms, seal)]
    values = _sealed(pa.array([payload.to_pybytes()], pa.large_binary()), seal)
    return [Outgoing(values, append_ms, None, _same_header(1) if seal else None)]


def _rows_of_arrow(messages: Messages, offset: int, limit: int, values: pa.LargeBinaryArray, topic: str) -> Stored:
    found: Stored = []
    for message, value in zip(messages.offsets.tolist(), values, strict=True):
        payload = value.as_buffer()
        if payload.size < 4 or payload.slice(0, 4).to_pybytes() != ARROW_MARK:
            raise LogError(f"topic {topic!r} holds lines at offset {message}, not rows; read it with read")
        with pa.ipc.open_stream(payload) as reader:
            rows = reader.read_next_batch()
        base = message << ROW_BITS
        first = max(offset - base, 0)
        rows = rows.slice(first, limit)
        if rows.num_rows:
            found.append((base + first, rows))
            limit -= rows.num_rows
        if limit <= 0:
            break
    return found


def _letters(rows: pa.RecordBatch, column: str, *, sealed: bool) -> tuple[pa.LargeBinaryArray, pa.LargeBinaryArray]:
    names = [name for name in rows.schema.names if name != column]
    texts = [_text(rows.column(name)) for name in names]
    always: list[tuple[str, bytes | None]] = [(SEALED, b"1")] if sealed else []
    packed = []
    for row in zip(*texts, strict=True):
        told = [(name, text.encode()) for name, text in zip(names, row, strict=True) if text is not None]
        packed.append(packed_headers([*always, *told]))
    values = pc.fill_null(rows.column(column).cast(pa.large_binary()), pa.scalar(b"", pa.large_binary()))
    return values, pa.array(packed, pa.large_binary())


def _text(column: pa.Array) -> list[str | None]:
    return column.cast(pa.string()).to_pylist()


def _rows_of_letters(messages: Messages, values: pa.LargeBinaryArray, schema: pa.Schema) -> pa.RecordBatch:
    column = _named(schema, "value")
    arrays = [
        values.cast(field.type) if field.name == column
        else messages.header(field.name).cast(pa.large_string()).cast(pa.string()).cast(field.type)
        for field in schema
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays(arrays, schema=schema.remove_metadata())


def _rows_of_json(values: pa.LargeBinaryArray, schema: pa.Schema, topic: str, first: int) -> pa.RecordBatch:
    """Parse JSON objects with the types of the schema; what the schema does not name is left out."""
    end = pa.scalar(b"\n", pa.large_binary())
    lines = pc.binary_join_element_wise(values, end, pa.scalar(b"", pa.large_binary()))
    _, ends, data = lines.buffers()
    bounds = np.frombuffer(ends, np.int64)
    text = data.slice(int(bounds[lines.offset]), int(bounds[lines.offset + len(lines)] - bounds[lines.offset]))
    reading = arrow_json.ReadOptions(use_threads=False, block_size=max(text.size + 1, 1 << 16))
    parsing = arrow_json.ParseOptions(explicit_schema=schema.remove_metadata(), unexpected_field_behavior="ignore")
    try:
        table = arrow_json.read_json(pa.BufferReader(text), read_options=reading, parse_options=parsing)
    except pa.ArrowInvalid as error:
        raise LogError(
            f"topic {topic!r} holds something else than our rows from offset {first} on ({str(error)[:120]}); "
            f"did others write to it?"
        ) from None
    if table.num_rows != len(values):
        raise LogError(
            f"topic {topic!r} holds something else than our rows from offset {first} on "
            f"({table.num_rows} objects in {len(values)} messages); did others write to it?"
        )
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema.remove_metadata())


def lines_array(values: pa.LargeBinaryArray | list[bytes]) -> pa.LargeBinaryArray:
    """Return records as an array; ConnectorError if one is null."""
    array = values if isinstance(values, pa.LargeBinaryArray) else pa.array(values, pa.large_binary())
    if array.null_count:
        index = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise ConnectorError(f"record {index} of an append is null; give bytes for every record")
    return array
