"""What a stage reads from the log: its inputs as chunks, of new records or of exactly those of an earlier commit.

Offsets of a partition rise, and may have gaps: the next one is behind the last record that was read, never counted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from connectors.columns import ints_of
from connectors.decode import decode
from connectors.log import Log
from connectors.records import Chunk, Int64s, Records
from connectors.schema import Schema
from pipeline.arrivals import Arrival, columns_of, merge_column
from pipeline.carried import Carried, carried_of
from pipeline.errors import PeltonError
from pipeline.replay import split
from pipeline.stages import LINES, Input, Stage

if TYPE_CHECKING:
    from connectors.formats import Decode

Stored = Records | list[tuple[int, pa.RecordBatch]]

READ_AT_ONCE = 8192
PATIENCE_S = 5.0  # for what a commit took, and the log does not give yet


def chunk_of(records: Records, schema: Schema, decoder: Decode | None = None) -> Chunk:
    """Decode records of the log: JSON, or what `decoder` decodes."""
    values = records.values
    decoded = decoder(records) if decoder is not None else decode(schema, records)
    return Chunk(
        records.topic, records.partition, records.offsets, decoded,
        lambda i: values[i].as_py(), records.append_ms, records.redriven_from, records.are_claimed,
    )  # fmt: skip


def read_new(log: Log, stage: Stage, each: Input, partition: int, offset: int, limit: int) -> Arrival | None:
    """Return what an input has from an offset on, at most `limit` records; None if there is nothing."""
    stored = stored_new(log, each, partition, offset, limit)
    return arrival_of(stage, each, stored) if len(stored) else None


def stored_new(log: Log, each: Input, partition: int, offset: int, limit: int) -> Stored:
    """Return the same as the log has it."""
    read = log.read if each.kind == LINES else log.read_rows
    return read(each.topic, partition, offset, limit)


def arrival_of(stage: Stage, each: Input, stored: Stored) -> Arrival:
    """Decode what the log has; not nothing."""
    if isinstance(stored, Records):
        return chunk_of(stored, each.schema, each.decode)
    return _carried(stage, each, stored)


def read_again(log: Log, stage: Stage, each: Input, partition: int, first: int, end: int) -> Arrival:
    """Return exactly the records of an earlier commit, from `first` to before `end`, however large.

    Raises:
        PeltonError: the log does not give all of them.
    """
    if each.kind == LINES:
        parts = []
        while first < end:
            records = log.read(each.topic, partition, first, min(end - first, READ_AT_ONCE))
            if not len(records):
                _be_patient(log, each.topic, partition, first, end)
                continue
            parts.append(first_records(records, int(np.searchsorted(records.offsets, end))))
            first = int(records.offsets[-1]) + 1
        return chunk_of(_together(parts), each.schema, each.decode)
    stored: list[tuple[int, pa.RecordBatch]] = []
    while first < end:
        found = log.read_rows(each.topic, partition, first, min(end - first, READ_AT_ONCE))
        if not found:
            _be_patient(log, each.topic, partition, first, end)
            continue
        stored += [(at, rows.slice(0, end - at)) for at, rows in found if at < end]
        first = found[-1][0] + found[-1][1].num_rows
    return _carried(stage, each, stored)


def as_of(arrival: Arrival, at_ms: int | Int64s) -> Arrival:
    """Return a chunk whose append times are not behind `at_ms`, when a worker took it, or (records,) took each.

    Only of times that producers said: a clock that is ahead would make its own events look due. The time at which they
    were read stands for it, and the manifest keeps that.
    """
    if isinstance(arrival, Carried) or not arrival.are_claimed or arrival.append_ms is None:
        return arrival
    return replace(arrival, append_ms=np.minimum(arrival.append_ms, at_ms))


def next_offset(arrival: Arrival) -> int:
    """Return the offset behind the last record of a chunk."""
    return int(arrival.offsets[-1]) + 1


def times_of(each: Input, arrival: Arrival) -> Int64s:
    """Return what the rows of a chunk merge by with other inputs."""
    return arrival.times_ms if isinstance(arrival, Carried) else ints_of(arrival.decoded.rows.column(each.schema.time))


def first_rows(arrival: Arrival, rows: int) -> Arrival:
    """Return a chunk's first rows; bad records between two of them go with the later one."""
    return arrival.first(rows) if isinstance(arrival, Carried) else split(arrival, rows)[0]


def first_records(records: Records, count: int) -> Records:
    """Return the first records of some."""
    if count >= len(records):
        return records
    append_ms, origins = records.append_ms, records.redriven_from
    return replace(
        records, values=records.values.slice(0, count), offsets=records.offsets[:count],
        append_ms=append_ms[:count] if append_ms is not None else None,
        redriven_from=origins[:count] if origins is not None else None,
    )  # fmt: skip


def _carried(stage: Stage, each: Input, stored: list[tuple[int, pa.RecordBatch]]) -> Carried:
    return carried_of(each.topic, stored, merge_column(each), columns_of(stage, each))


def _be_patient(log: Log, topic: str, partition: int, first: int, end: int) -> None:
    """Wait for what a commit took: it is in the log, but a client may not have fetched it yet."""
    if not log.wait({(topic, partition): first}, PATIENCE_S):
        raise PeltonError(
            f"topic {topic!r}, partition {partition}: a commit took the records up to {end}, and the log has none from "
            f"{first} on; was the topic made anew? remove its group's snapshots and manifests, or restore it"
        )


def _together(parts: list[Records]) -> Records:
    """Join consecutive records."""
    if len(parts) == 1:
        return parts[0]

    def joined(name: str, missing: int) -> Int64s | None:
        arrays = [getattr(part, name) for part in parts]
        if all(array is None for array in arrays):
            return None
        sizes = [len(part) for part in parts]
        return np.concatenate([np.full(n, missing) if a is None else a for a, n in zip(arrays, sizes, strict=True)])

    values = pa.concat_arrays([part.values for part in parts])
    offsets = np.concatenate([part.offsets for part in parts])
    return Records(
        parts[0].topic, parts[0].partition, values, offsets, joined("append_ms", 0), joined("redriven_from", -1),
        any(part.are_claimed for part in parts),
    )  # fmt: skip
