"""What arrives at a stage, of whatever kind, as judged records: only what producers wrote is judged here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.columns import hash_column
from connectors.records import Chunk
from connectors.schema import Schema
from kernels.floors import EVENT, UNKNOWN_MS, advance
from pipeline.admission import Admission
from pipeline.carried import FACT_FIELDS, Carried, event_schema, fact_schema
from pipeline.inputs import Judged, Ledger, judge, judge_labels
from pipeline.row_columns import RowColumns
from pipeline.stages import CARRIED, FACTS, Input, Stage

if TYPE_CHECKING:
    from connectors.secrets import Tokeniser  # it brings cryptography along, which a replay rarely needs

Int64s = NDArray[np.int64]
Arrival = Chunk | Carried


class StageFloor:
    """How far the sources of a later stage have come, together; a pure function of its log.

    Each source is a partition of the stage before; see `kernels.floors.advance`.
    """

    def __init__(self, sources: int) -> None:
        self._source_ms = np.full(sources, UNKNOWN_MS)
        self._idle = np.zeros(sources, np.int8)
        self._floor_ms = np.full(1, UNKNOWN_MS)

    @property
    def floor_ms(self) -> int:
        """The oldest event time that is not late for any source that counts; far in the past before all were heard."""
        return int(self._floor_ms[0])

    def advance(self, carried: Carried) -> Int64s:
        """Return the floor after each row."""
        floors_ms = np.zeros(len(carried), np.int64)
        self._floor_ms[0] = advance(
            carried.kinds, carried.sources, carried.floors_ms, self._source_ms, self._idle, self.floor_ms, floors_ms
        )
        return floors_ms

    def save(self) -> dict[str, NDArray[np.generic]]:
        """Return the state as named arrays."""
        return {"source_ms": self._source_ms.copy(), "idle": self._idle.copy(), "floor_ms": self._floor_ms.copy()}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take the state from what `save` returned.

        Raises:
            ValueError: it is of another number of partitions.
        """
        if arrays["source_ms"].size != self._source_ms.size:
            raise ValueError(f"the snapshot is of {arrays['source_ms'].size} partitions, not {self._source_ms.size}")
        self._source_ms, self._idle, self._floor_ms = (
            np.array(arrays[name]) for name in ("source_ms", "idle", "floor_ms")
        )


def columns_of(stage: Stage, each: Input) -> pa.Schema:
    """Return the columns that the rows of an input from another stage have."""
    if each.kind == FACTS:
        return fact_schema()
    features = [stage.plan.names[column] for column in stage.carried] if each is stage.main else []
    return event_schema(each.schema.arrow, features, each.kind == CARRIED)


def merge_column(each: Input) -> str:
    """Return the column that rows of an input from another stage merge by."""
    return FACT_FIELDS[2] if each.kind == FACTS else each.schema.time


def judge_lines(each: Input, chunk: Chunk, admission: Admission | None, tokeniser: Tokeniser | None) -> Judged:
    """Judge records as producers wrote them: events, or labels, which have no admission."""
    if admission is None:
        return judge_labels(chunk, each.schema, each.label, tokeniser)
    return judge(chunk, each.schema, admission, tokeniser)


def judge_carried(each: Input, carried: Carried, floor: StageFloor | None) -> Judged:
    """Take events, or labels, that another stage has judged, in the order of this topic."""
    is_event = carried.kinds == EVENT
    floors_ms = floor.advance(carried) if floor is not None else carried.times_ms
    columns = RowColumns(_fields(carried.rows, each.schema), each.schema)
    ids, count = hash_column(columns.rows.column(each.schema.id)), carried.rows.num_rows
    values = columns.number(each.label).astype(np.int64) if each.label else None
    ledger = Ledger(taken=count, applied=count)
    return Judged(carried.times_ms, floors_ms, is_event, columns, carried.offsets[is_event], ids, ledger, [], values)


def judge_facts(each: Input, carried: Carried) -> Judged:
    """Take facts in the order of their topic; they merge by when they were known."""
    count, times_ms = len(carried), carried.times_ms
    none = nothing_of(each.schema)
    return replace(
        none, times_ms=times_ms, floors_ms=times_ms, applied=np.ones(count, np.bool_), offsets=carried.offsets,
        ledger=Ledger(taken=count, applied=count),
    )  # fmt: skip


def nothing_of(schema: Schema) -> Judged:
    """Return no records at all."""
    rows = pa.RecordBatch.from_arrays([pa.array([], each) for each in schema.arrow.types], schema=schema.arrow)
    none = np.zeros(0, np.int64)
    return Judged(none, none, none.astype(bool), RowColumns(rows, schema), none, none.astype(np.uint64), Ledger(), [])


def only_applied(judged: Judged) -> RowColumns:
    """Return the columns of the applied rows; those of labels hold the others too."""
    if len(judged.columns) == len(judged.offsets):
        return judged.columns
    return RowColumns(judged.columns.rows.filter(pa.array(judged.applied)), judged.columns.schema)


def as_sent(chunk: Chunk, judged: Judged) -> pa.RecordBatch:
    """Return the applied rows as producers wrote them, before tokens took the place of sensitive values."""
    rows = chunk.decoded.rows
    return rows if judged.applied.all() else rows.filter(pa.array(judged.applied))


def _fields(rows: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
    return rows.select(list(schema.names))
