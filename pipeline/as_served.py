"""What a stage was given and what it made of it, both from the log: so that `verify` can recompute what was served.

An event's features stand in the row that was passed on, or in its decision.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from connectors.columns import floats_of, ints_of, valid_rows
from connectors.log import Log
from pipeline.app import App
from pipeline.arrivals import Arrival
from pipeline.carried import MARKER, OFFSET, SOURCE
from pipeline.kinds import decider_of
from pipeline.manifest import decode
from pipeline.recovery import chunks_again
from pipeline.stages import FACTS, Stage
from pipeline.topics import decisions_topic

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
ROWS_MAX = 8192


@dataclass(frozen=True)
class AsServed:
    """The events of a commit that were decided or passed on: (events,) rising offsets, (events, features) or NaN."""

    offsets: Int64s
    matrix: Float64s


def commits_as_served(
    app: App,
    stage: Stage,
    log: Log,
    partition: int,
    since_commit: int = 0,
    begin: Callable[[str, int], int] | None = None,
) -> Iterator[tuple[Mapping[str, Arrival], AsServed]]:
    """Yield what each commit of a stage took, and what it served, as far back as its manifests go.

    Args:
        since_commit: only later ones.
        begin: topic, partition -> offset from which on to look for what they served; None for all.

    Snapshots let manifests be forgotten that no recovery needs; windows that reach back behind the oldest one cannot be
    recomputed by what is left.
    """
    sources = _sources(app, stage, log, partition, begin or log.begin)
    for _, payload in log.manifests(stage.group, partition, since_commit):
        manifest = decode(payload)
        first, end = manifest.inputs.get(stage.main.topic, (0, 0))
        chunks = chunks_again(stage, log, partition, manifest)
        if chunks:
            yield chunks, _joined(stage, [part for each in sources for part in each.between(first, end)])


@dataclass
class _Source:
    """Rows of one topic and partition that say what a stage served, in the order of its input.

    Attributes:
        column: with the offset of the event in the stage's input.
        features: column of the feature matrix -> column of the rows.
        only: column and value that the rows must have: of this stage's partition, of one task.
        waiting: rows that were read and not asked for yet, with their offsets, which rise.
    """

    log: Log
    topic: str
    partition: int
    at: int
    column: str
    features: dict[int, str]
    only: tuple[str, int | str]
    waiting: deque[tuple[Int64s, pa.RecordBatch]] = field(default_factory=deque)

    def between(self, first: int, end: int) -> Iterator[tuple[Int64s, dict[int, Float64s]]]:
        """Yield offsets and features of the events from `first` to before `end`; called with rising ones."""
        while not self._reaches(end) and (stored := self.log.read_rows(self.topic, self.partition, self.at, ROWS_MAX)):
            self.at = stored[-1][0] + stored[-1][1].num_rows
            for _, group in groupby((rows for _, rows in stored), key=lambda rows: rows.schema):
                for together in pa.Table.from_batches(list(group)).combine_chunks().to_batches():
                    rows = self._mine(together)
                    if rows.num_rows:
                        self.waiting.append((ints_of(rows.column(self.column)), rows))
        while self.waiting and self.waiting[0][0][0] < end:
            offsets, rows = self.waiting[0]
            since, until = np.searchsorted(offsets, (first, end))
            if since < until:
                some = rows.slice(since, until - since)
                yield offsets[since:until], {n: _values(some.column(name)) for n, name in self.features.items()}
            if until < len(offsets):
                return
            self.waiting.popleft()

    def _reaches(self, end: int) -> bool:
        return bool(self.waiting) and int(self.waiting[-1][0][-1]) >= end

    def _mine(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        if MARKER in rows.schema.names:
            return rows.slice(0, 0)
        name, value = self.only
        return rows.filter(pc.equal(rows.column(name), pa.scalar(value)))


def _sources(app: App, stage: Stage, log: Log, partition: int, begin: Callable[[str, int], int]) -> list[_Source]:
    if stage.decides:
        topic, found = decisions_topic(app.name), []
        for task in app.tasks:
            if task.on is stage.main.stream:
                decider = decider_of(task, stage.plan)
                features = dict(zip(decider.columns, decider.feature_names, strict=True))
                at = begin(topic, partition)
                found.append(_Source(log, topic, partition, at, "source_offset", features, ("task", task.name)))
        return found
    output = next((each for each in stage.outputs if each.kind != FACTS), None)
    if output is None:
        return []
    features = {column: stage.plan.names[column] for column in output.features}
    return [
        _Source(log, output.topic, p, begin(output.topic, p), OFFSET, features, (SOURCE, partition))
        for p in range(stage.partitions)
    ]


def _joined(stage: Stage, parts: list[tuple[Int64s, dict[int, Float64s]]]) -> AsServed:
    """Put what was found about a commit together; several tasks say different things about the same events."""
    offsets = np.unique(np.concatenate([np.zeros(0, np.int64), *(each for each, _ in parts)]))
    matrix = np.full((offsets.size, len(stage.plan.names)), np.nan)
    for some, features in parts:
        rows = np.searchsorted(offsets, some)
        for column, values in features.items():
            matrix[rows, column] = values
    return AsServed(offsets, matrix)


def _values(column: pa.Array) -> Float64s:
    return np.where(valid_rows(column), floats_of(column), np.nan)
