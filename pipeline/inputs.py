"""One input of a commit on its way into the engine: judged, tokenised, with columns at hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.columns import hash_column, ints_of
from connectors.records import Chunk
from connectors.schema import Schema
from pipeline.admission import APPLIED, CAUSES, FUTURE, LATE, Admission
from pipeline.row_columns import RowColumns

if TYPE_CHECKING:
    from connectors.secrets import Tokeniser  # it brings cryptography along, which a replay rarely needs

Int64s = NDArray[np.int64]
_REDRIVEN_SEED = 0x52444C51  # keeps offsets of re-driven letters apart from ids


@dataclass(frozen=True)
class DeadLetter:
    """A record that was not applied, and why.

    Attributes:
        kind: invalid, future or late.
        cause: one sentence, without values of sensitive fields.
        raw: the original bytes.
    """

    stream: str
    partition: int
    offset: int
    kind: str
    cause: str
    raw: bytes


@dataclass
class Ledger:
    """What became of the records of one input: in = applied + late + future + duplicate + invalid."""

    taken: int = 0
    applied: int = 0
    late: int = 0
    future: int = 0
    duplicate: int = 0
    invalid: int = 0

    @property
    def is_closed(self) -> bool:
        """Whether every record is accounted for."""
        return self.taken == self.applied + self.late + self.future + self.duplicate + self.invalid

    def add(self, other: Ledger) -> None:
        """Add another ledger's counts to this one."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass
class Judged:
    """The records of one input after judgement.

    Attributes:
        times_ms, floors_ms: (rows,) of all decoded rows, for the merge with other inputs.
        applied: (rows,) which of them count.
        columns: of the applied rows.
        offsets: (applied,) where they stand in their input.
        ids: (applied,) hashes of their ids.
        label_values: (applied,) what a stream of labels says; None for other streams.
        before_rows: (rows,) for labels that come from the events themselves: before which decoded row of the decided
            stream each is told; None for what merges by its times.
    """

    times_ms: Int64s
    floors_ms: Int64s
    applied: NDArray[np.bool_]
    columns: RowColumns
    offsets: Int64s
    ids: NDArray[np.uint64]
    ledger: Ledger
    dead: list[DeadLetter]
    label_values: Int64s | None = None
    before_rows: Int64s | None = None

    @property
    def applied_times_ms(self) -> Int64s:
        """(applied,) event times."""
        return self.times_ms if self.applied.all() else self.times_ms[self.applied]


def tokenised(rows: pa.RecordBatch, schema: Schema, tokeniser: Tokeniser | None) -> pa.RecordBatch:
    """Replace the values of sensitive fields by tokens.

    Raises:
        ValueError: the schema has sensitive fields, and there is no key to tokenise them with.
    """
    if not schema.has_sensitive:
        return rows
    if tokeniser is None:
        names = ", ".join(field.name for field in schema.fields if field.sensitive)
        raise ValueError(f"{names} is sensitive and there is no key; set PELTON_KEY, or run `pelton doctor`")
    columns = [
        tokeniser.tokens(field.sensitive, column) if field.sensitive else column
        for field, column in zip(schema.fields, rows.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)


def judge_labels(chunk: Chunk, schema: Schema, field: str, tokeniser: Tokeniser | None) -> Judged:
    """Take the labels of a chunk, in order: never late or future; one without a value is invalid."""
    rows = tokenised(chunk.decoded.rows, schema, tokeniser)
    columns = RowColumns(rows, schema)
    numbers = columns.number(field)
    there = ~np.isnan(numbers)
    dead = [_invalid(chunk, bad.index, bad.cause) for bad in chunk.decoded.bad]
    dead += [_invalid(chunk, int(chunk.decoded.index[row]), f"{field} is null") for row in np.flatnonzero(~there)]
    ledger = Ledger(taken=len(chunk), applied=int(there.sum()), invalid=len(dead))
    times_ms, offsets = columns.times_ms, chunk.offsets[chunk.decoded.index]
    values, ids = numbers[there].astype(np.int64), columns.hashes(schema.id)[there]
    return Judged(times_ms, times_ms, there, columns, offsets[there], ids, ledger, dead, values)


def judge(chunk: Chunk, schema: Schema, admission: Admission, tokeniser: Tokeniser | None) -> Judged:
    """Judge the records of a chunk, in order."""
    decoded = chunk.decoded
    rows = tokenised(decoded.rows, schema, tokeniser)
    times_ms, index = np.array(ints_of(rows.column(schema.time))), decoded.index
    ids = hash_column(rows.column(schema.id))
    dead = [_invalid(chunk, bad.index, bad.cause) for bad in decoded.bad]
    ledger = Ledger(taken=len(chunk), invalid=len(dead))
    append_ms = chunk.append_ms[index] if chunk.append_ms is not None else None
    status, floors_ms = admission.judge(times_ms, ids, append_ms, _redriven(chunk, index))
    for row in np.flatnonzero((status == FUTURE) | (status == LATE)):
        kind = CAUSES[int(status[row])]
        cause = _why(kind, int(times_ms[row]), int(floors_ms[row]), append_ms, int(row))
        at = int(index[row])
        dead.append(DeadLetter(chunk.stream, chunk.partition, int(chunk.offsets[at]), kind, cause, chunk.raw(at)))
    counted = np.bincount(status, minlength=4)
    ledger.applied, ledger.future, ledger.late, ledger.duplicate = (int(each) for each in counted)
    applied, offsets = status == APPLIED, chunk.offsets[index] if len(index) != len(chunk) else chunk.offsets
    if not applied.all():
        rows, offsets, ids = rows.filter(pa.array(applied)), offsets[applied], ids[applied]
    return Judged(times_ms, floors_ms, applied, RowColumns(rows, schema), offsets, ids, ledger, dead)


def judged_as(chunk: Chunk, schema: Schema, admission: Admission, tokeniser: Tokeniser | None) -> NDArray[np.int8]:
    """Return (rows,) what `judge` takes each row for, APPLIED, FUTURE, LATE or DUPLICATE, and nothing else."""
    rows, index = tokenised(chunk.decoded.rows, schema, tokeniser), chunk.decoded.index
    append_ms = chunk.append_ms[index] if chunk.append_ms is not None else None
    times_ms, ids = np.array(ints_of(rows.column(schema.time))), hash_column(rows.column(schema.id))
    return admission.judge(times_ms, ids, append_ms, _redriven(chunk, index))[0]


def _redriven(chunk: Chunk, index: Int64s) -> NDArray[np.uint64] | None:
    if chunk.redriven_from is None:
        return None
    origin = chunk.redriven_from[index]
    return np.where(origin >= 0, hash_column(pa.array(origin), _REDRIVEN_SEED), np.uint64(0))


def _invalid(chunk: Chunk, index: int, cause: str) -> DeadLetter:
    return DeadLetter(chunk.stream, chunk.partition, int(chunk.offsets[index]), "invalid", cause, chunk.raw(index))


def _why(kind: str, time_ms: int, floor_ms: int, append_ms: Int64s | None, row: int) -> str:
    if kind == "late":
        return f"its time {time_ms} is {floor_ms - time_ms} ms older than the stream's lateness allows"
    ahead = time_ms - int(append_ms[row]) if append_ms is not None else 0
    return f"its time {time_ms} is {ahead} ms ahead of the log's clock"


def check_known(chunks: Iterable[str], known: set[str]) -> None:
    """Refuse chunks of streams that the app does not read."""
    for name in chunks:
        if name not in known:
            raise ValueError(f"stream {name!r} is not an input of this app; its inputs are {', '.join(sorted(known))}")
