"""Rows of the topics between stages: how a commit's events and facts are written there, and read back.

An event is a row of its fields, the features that it has so far, and where it comes from (columns that begin with #). A
source that has nothing to pass on says how far it is in a row of its own, a marker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.columns import ints_of
from kernels.floors import EVENT, FLOOR, IDLE, UNKNOWN_MS
from pipeline.errors import PeltonError

Int64s = NDArray[np.int64]
SOURCE, FLOOR_MS, OFFSET, APPEND_MS, MARKER = "#source", "#floor_ms", "#offset", "#append_ms", "#marker"
FACT_FIELDS = ("key", "time_ms", "known_ms", "value", "weight")
_MARKER = pa.schema([(SOURCE, pa.int64()), (FLOOR_MS, pa.int64()), (MARKER, pa.int8())])


@dataclass(frozen=True)
class Carried:
    """Rows of one topic and partition, as far as one commit takes them.

    Attributes:
        offsets: (rows,) where they stand, markers included.
        kinds: (rows,) int8: EVENT, or as markers FLOOR and IDLE.
        sources: (rows,) the partition of the stage that wrote each.
        floors_ms: (rows,) how far the source was, as of each row; UNKNOWN_MS in topics that carry no floors.
        times_ms: (rows,) what they merge by with other inputs; a marker goes first.
        rows: (events,) the events, or facts, with all their columns.
    """

    topic: str
    offsets: Int64s
    kinds: NDArray[np.int8]
    sources: Int64s
    floors_ms: Int64s
    times_ms: Int64s
    rows: pa.RecordBatch

    def __len__(self) -> int:
        return int(self.offsets.size)

    def first(self, count: int) -> Carried:
        """Return the first `count` rows."""
        events = int((self.kinds[:count] == EVENT).sum())
        cut = {name: getattr(self, name)[:count] for name in ("offsets", "kinds", "sources", "floors_ms", "times_ms")}
        return replace(self, **cut, rows=self.rows.slice(0, events))


def carried_of(topic: str, stored: Sequence[tuple[int, pa.RecordBatch]], time: str, schema: pa.Schema) -> Carried:
    """Put stored batches together.

    Args:
        topic: their name.
        stored: batches, each with the offset of its first row.
        time: the column that events merge by.
        schema: the columns that events must have; others are left out.

    Raises:
        PeltonError: a batch has not the columns that this app passes on.
    """
    events = [_with_columns(topic, batch, schema) for _, batch in stored if MARKER not in batch.schema.names]
    table = pa.Table.from_batches(events, schema).combine_chunks()
    rows = table.to_batches()[0] if table.num_rows else _no_rows(schema)
    counts = np.array([batch.num_rows for _, batch in stored], np.int64)
    firsts, starts = np.array([first for first, _ in stored], np.int64), np.cumsum(counts) - counts
    offsets = np.repeat(firsts - starts, counts) + np.arange(counts.sum())
    says = {name: ints_of(rows.column(name)) if name in schema.names else np.full(rows.num_rows, UNKNOWN_MS)
            for name in (SOURCE, FLOOR_MS, time)}  # fmt: skip
    kinds = np.full(offsets.size, EVENT, np.int8)
    if len(events) == len(stored):
        return Carried(topic, offsets, kinds, says[SOURCE], says[FLOOR_MS], says[time], rows)
    whole = {name: np.full(offsets.size, UNKNOWN_MS) for name in says}
    for (_, batch), start in zip(stored, starts.tolist(), strict=True):
        if MARKER in batch.schema.names:
            here = slice(start, start + batch.num_rows)
            kinds[here] = ints_of(batch.column(MARKER))
            for name in (SOURCE, FLOOR_MS):
                whole[name][here] = ints_of(batch.column(name))
    for name, values in says.items():
        whole[name][kinds == EVENT] = values
    return Carried(topic, offsets, kinds, whole[SOURCE], whole[FLOOR_MS], whole[time], rows)


def marker(source: int, floor_ms: int, is_idle: bool) -> pa.RecordBatch:
    """Return the row in which a source says how far it is, or that it has nothing to pass on."""
    arrays = [pa.array([source]), pa.array([floor_ms]), pa.array([IDLE if is_idle else FLOOR], pa.int8())]
    return pa.RecordBatch.from_arrays(arrays, schema=_MARKER)


def event_schema(fields: pa.Schema, features: Sequence[str], is_carried: bool) -> pa.Schema:
    """Return the columns of events: fields, features so far, where they come from; if carried, the floor."""
    about = (SOURCE, OFFSET, *((FLOOR_MS, APPEND_MS) if is_carried else ()))
    return pa.schema([*fields, *((name, pa.float64()) for name in features), *((name, pa.int64()) for name in about)])


def fact_schema() -> pa.Schema:
    """Return the columns of facts: hash of the key, time of the event, when known, what it adds, to the count."""
    types = [pa.uint64(), *[pa.int64()] * 4]
    return pa.schema([*zip(FACT_FIELDS, types, strict=True), (SOURCE, pa.int64())])


def _with_columns(topic: str, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    if batch.schema.equals(schema):
        return batch
    there = dict(zip(batch.schema.names, batch.schema.types, strict=True))
    for field in schema:
        if there.get(field.name) != field.type:
            raise PeltonError(
                f"topic {topic!r} holds rows without {field.name!r} of type {field.type}: another version of the app "
                "wrote them; let that version take them all, then start this one"
            )
    return batch.select(schema.names)


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], each) for each in schema.types], schema=schema)
