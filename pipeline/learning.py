"""The online learner beside the server: reads decisions and labels from the log, learns, and offers snapshots.

The learner is never the server. What it learned reaches decisions only as a snapshot that passed the gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from connectors.columns import floats_of, hash_column, valid_rows
from connectors.decode import decode
from connectors.log import Log
from connectors.records import Records
from connectors.secrets import Tokeniser
from models.ftrl import Ftrl
from models.learner import LearnerSettings, OnlineLearner
from models.registry import Registry
from models.registry_types import Deployment, RegistryError
from models.scorer import FTRL
from pipeline.app import App, Task
from pipeline.decisions import Decider
from pipeline.heads import rows_to_take
from pipeline.inputs import tokenised
from pipeline.manifest import decode as decode_manifest
from pipeline.reading import first_records
from pipeline.row_columns import RowColumns
from pipeline.stages import LINES, stages_of
from pipeline.timeline import merged_order
from pipeline.topics import decisions_topic

if TYPE_CHECKING:
    from connectors.formats import Decode

Float64s = NDArray[np.float64]
ROWS_MAX = 8192
NEVER_MS, ALWAYS_MS = -(2**63), 2**63 - 1  # before and after all event times
SETTLE_MS = 1_000  # by then what was appended is there for every reader, whatever partition it is in
PUBLISH_EVERY_LABELS = 2_000
SNAPSHOTS_KEPT = 50  # of a task in the registry; what served lately stays besides
WHO = "learner"


@dataclass(frozen=True)
class Learned:
    """What the learner knows of itself.

    Attributes:
        labels: joined and learned or held back.
        live_auc: of the scores as served, over the last labels; NaN before there are both classes.
        progressive_auc: of the learner's own predictions, each made before its label.
        snapshots: how many it published.
        refused: why the last candidate was not published, "" if it was.
        counts: the labels' ledger.
    """

    labels: int
    live_auc: float
    progressive_auc: float
    snapshots: int
    refused: str
    counts: dict[str, int]


class LearnerLoop:
    """Learns one task from the log; a pure function of decisions and labels in log order.

    Labels of several partitions are taken in order of (append time, partition, offset), once they are SETTLE_MS old: so
    the order does not depend on when they were read. Only a label that is there before its event is decided is learned
    when the decision comes, which may be earlier the next time.

    When it starts, it learns the log's history again: a snapshot says nothing of labels that are still awaited. It
    offers nothing before that is done: what it knows half-way is older than what serves. Where many decisions are still
    to be read, labels and decisions keep together by event time: a label waits in the log until its event is there, or
    is seen to be missing; and decisions wait, or an event would be forgotten before its label comes. So a label must
    not be dated before its event by more than the lateness: one that is may be learned at another place the next time.

    Args:
        app, task: what to learn; its label must come in a stream of its own.
        log: with decisions and labels.
        registry: where snapshots go; None keeps them to itself.
        tokeniser: for sensitive ids.
        settings: of the learner.
        publish_every: labels between two candidates.
        decoder: of the labels' records; None for JSON.
        rows_max: decisions and labels of a partition that are taken in one step.
    """

    def __init__(
        self,
        app: App,
        task: Task,
        log: Log,
        registry: Registry,
        tokeniser: Tokeniser | None = None,
        settings: LearnerSettings | None = None,
        publish_every: int = PUBLISH_EVERY_LABELS,
        decoder: Decode | None = None,
        rows_max: int = ROWS_MAX,
    ) -> None:
        if task.label is None or task.label.stream.derived_from is not None:
            raise ValueError(f"task {task.name!r} has no stream of labels to learn from while it runs")
        self._app, self._task, self._log, self._registry = app, task, log, registry
        self._tokeniser, self._settings, self._publish_every = tokeniser, settings, publish_every
        decider = Decider(task, app.plans[task.on.name])
        self._columns = decider.feature_names
        self._labels, self._decoder, self._rows_max = task.label.stream, decoder, rows_max
        self.snapshots, self.refused = 0, ""
        self._learner: OnlineLearner | None = None
        self._bundle = ""
        self._joined_at_publish = 0

    def _start(self) -> bool:
        """Take the learner of the live bundle; False while nothing serves."""
        try:
            serving = self._registry.serving(self._task.name)
        except RegistryError:
            return False
        if self._learner is not None and serving.bundle == self._bundle:
            return True
        deployment: Deployment = self._registry.live(self._task.name)
        if FTRL not in deployment.bundle.parts:
            return False
        model = Ftrl.restore(deployment.bundle.part(FTRL))
        self._learner = OnlineLearner(model, len(self._columns), self._settings)
        self._bundle, self._joined_at_publish = serving.bundle, 0
        topic, labels = decisions_topic(self._app.name), self._labels.name
        counts = {each.name: each.partitions for each in self._log.topics()}
        partitions = range(counts.get(labels, 1))
        self._decisions_at = {p: self._log.begin(topic, p) for p in range(counts.get(topic, 1))}
        self._read_ms = dict.fromkeys(self._decisions_at, NEVER_MS)  # event time of the newest decision read
        self._behind = set(self._decisions_at)  # partitions with decisions that were not read yet
        self._wanted_ms = NEVER_MS  # event time up to which the next label wants decisions
        self._labels_at = {p: self._log.begin(labels, p) for p in partitions}
        self._history_end = {p: self._log.end(labels, p) for p in partitions}
        self._reader = next(
            stage for stage in stages_of(self._app, len(partitions))
            if any(each.stream is self._labels and each.kind == LINES for each in stage.inputs)
        )  # fmt: skip
        self._is_relearning = deployment.snapshot is not None
        return True

    def step(self, now_ms: int) -> int:
        """Learn what is new; return how many decisions and labels that were."""
        if not self._start():
            return 0
        taken = {p: self._labels_taken(p) for p in self._labels_at}  # first: what they are about is decided by now
        return self._read_decisions() + self._read_labels(now_ms, taken)

    @property
    def status(self) -> Learned:
        """How it goes."""
        learner = self._learner
        if learner is None:
            return Learned(0, float("nan"), float("nan"), 0, "no bundle serves yet", {})
        counts = learner.counts
        return Learned(
            counts["joined"], learner.live.auc(), learner.progressive.auc(), self.snapshots, self.refused, counts
        )

    def _read_decisions(self) -> int:
        ahead = {p for p in self._behind if self._read_ms[p] > self._wanted_ms}
        return sum(self._read_partition(partition) for partition in self._decisions_at if partition not in ahead)

    def _read_partition(self, partition: int) -> int:
        topic, count = decisions_topic(self._app.name), 0
        while count < self._rows_max:
            stored = self._log.read_rows(topic, partition, self._decisions_at[partition], self._rows_max - count)
            if not stored:
                self._behind.discard(partition)
                return count
            self._decisions_at[partition] = stored[-1][0] + stored[-1][1].num_rows
            for rows in _together(stored):
                self._read_ms[partition] = max(self._read_ms[partition], pc.max(rows.column("time_ms")).as_py())
                self._serve(rows)
                count += rows.num_rows
        self._behind.add(partition)
        return count

    def _serve(self, rows: pa.RecordBatch) -> None:
        """Show decisions to the learner."""
        assert self._learner is not None
        if len(self._app.tasks) > 1:
            rows = rows.filter(pc.equal(rows.column("task"), self._task.name))
        if not rows.num_rows or any(name not in rows.schema.names for name in self._columns):
            return  # of another task, or of a version of the app with other features
        features = np.column_stack([_values(rows.column(name)) for name in self._columns])
        ids = hash_column(rows.column("event_id")).view(np.int64)
        self._learner.serve(ids, features, _values(rows.column("moe_logit")), _values(rows.column("score")))

    def _read_labels(self, now_ms: int, taken: Mapping[int, int]) -> int:
        assert self._learner is not None
        parts, more = [], []
        until_ms = now_ms - SETTLE_MS if len(self._labels_at) > 1 else None
        for partition in self._labels_at:
            records, is_cut = self._new_labels(partition, until_ms, taken[partition])
            parts.append(records)
            more.append(is_cut)
        if len(parts) > 1:
            to_take = rows_to_take([_append_ms(records) for records in parts], more)
            parts = [first_records(records, count) for records, count in zip(parts, to_take, strict=True)]
        if not any(len(records) for records in parts):
            self._wanted_ms = ALWAYS_MS  # no label waits
            return 0
        labels = self._in_order(parts)
        count = self._due(labels)
        for partition, records, number in zip(self._labels_at, parts, labels.counts(count, len(parts)), strict=True):
            if number:
                self._labels_at[partition] = int(records.offsets[number - 1]) + 1
        there = labels.there[:count]
        self._learner.label(labels.ids[:count][there], labels.values[:count][there])
        if self._is_behind():
            return count
        if self._is_relearning:
            self._is_relearning, self._joined_at_publish = False, self._learner.counts["joined"]
            self._learner.publish()  # about what serves: the next candidate is compared with it
        elif self._learner.counts["joined"] - self._joined_at_publish >= self._publish_every:
            self._joined_at_publish = self._learner.counts["joined"]
            self._publish(now_ms)
        return count

    def _due(self, labels: _Labels) -> int:
        """Return how many labels come before the first whose event is still to be read."""
        assert self._learner is not None
        if not self._behind:
            return len(labels.ids)
        read_ms = min(self._read_ms[p] for p in self._behind) - self._task.on.lateness_ms
        waits = labels.there & (labels.times_ms >= read_ms)
        waits[waits] = ~self._learner.knows(labels.ids[waits])
        if not waits.any():
            return len(labels.ids)
        first = int(np.argmax(waits))
        self._wanted_ms = int(labels.times_ms[first]) + self._task.on.lateness_ms
        return first

    def _new_labels(self, partition: int, until_ms: int | None, end: int) -> tuple[Records, bool]:
        """Return labels before `end` that were there by a time, and whether others must wait for more.

        Labels that no worker has taken may be about events that are not decided yet.
        """
        at = self._labels_at[partition]
        if until_ms is None and end <= at:
            return _no_records(self._labels.name, partition), False
        records = self._log.read(self._labels.name, partition, at, self._rows_max)
        taken = int(np.searchsorted(records.offsets, end))
        if until_ms is None:
            return first_records(records, taken), False
        is_new = _append_ms(records) > until_ms
        settled = int(np.argmax(is_new)) if is_new.any() else len(records)
        if settled <= taken and settled < len(records):
            return first_records(records, settled), False  # what is behind, is newer than all that is taken now
        more = taken < len(records) or (taken > 0 and self._has(partition, int(records.offsets[-1]) + 1))
        return first_records(records, taken), more

    def _has(self, partition: int, at: int) -> bool:
        """Whether there is a label at an offset or behind it; an end further on may be behind nothing."""
        if self._log.end(self._labels.name, partition) <= at:
            return False
        return len(self._log.read(self._labels.name, partition, at, 1)) > 0

    def _is_behind(self) -> bool:
        """Whether labels from before the start are still to be learned."""
        waiting = [
            p for p, end in self._history_end.items() if self._labels_at[p] < end and self._has(p, self._labels_at[p])
        ]
        self._history_end = {p: self._history_end[p] for p in waiting}
        return bool(waiting)

    def _in_order(self, parts: Sequence[Records]) -> _Labels:
        """Return labels of several partitions, in the order in which they were appended."""
        assert self._task.label is not None
        schema = self._labels.schema
        found = []
        for partition, records in enumerate(parts):
            decoded = self._decoder(records) if self._decoder is not None else decode(schema, records)
            rows = tokenised(decoded.rows, schema, self._tokeniser)
            labels = _Labels.none(len(records), partition)
            labels.ids[decoded.index] = hash_column(rows.column(schema.id).cast(pa.string())).view(np.int64)
            columns = RowColumns(rows, schema)
            labels.values[decoded.index] = columns.number(self._task.label.name)
            labels.times_ms[decoded.index] = columns.times_ms
            labels.there[decoded.index] = True
            found.append(labels)
        order = merged_order([_append_ms(records) for records in parts])
        return _Labels(*(np.concatenate([getattr(each, name) for each in found])[order] for name in _Labels.names()))

    def _labels_taken(self, partition: int) -> int:
        """Return how far the worker has taken the labels of a partition."""
        newest = self._log.manifest(self._reader.group, partition)
        return decode_manifest(newest[1]).inputs.get(self._labels.name, (0, 0))[1] if newest is not None else 0

    def _publish(self, now_ms: int) -> None:
        """Offer what was learned; it serves only if the gate accepts it."""
        assert self._learner is not None
        data, verdict = self._learner.candidate()
        if not verdict.accepted:
            self.refused = "; ".join(verdict.reasons)
            return
        measured = {name: value for name, value in verdict.measured.items() if value is not None}
        metrics: dict[str, float | None] = {name: value for name, value in measured.items() if np.isfinite(value)}
        snapshot = self._registry.add_snapshot(self._task.name, self._bundle, data, metrics, WHO, now_ms)
        if self._registry.serving(self._task.name).bundle == self._bundle:
            self._registry.promote(self._task.name, snapshot, WHO, now_ms)
        self._registry.prune_snapshots(self._task.name, SNAPSHOTS_KEPT, WHO, now_ms)
        self._learner.publish()
        self.snapshots, self.refused = self.snapshots + 1, ""


@dataclass(frozen=True)
class _Labels:
    """Labels as arrays, (n,) each: hashes of ids, values, event times, whether they could be read, and partitions."""

    ids: NDArray[np.int64]
    values: Float64s
    times_ms: NDArray[np.int64]
    there: NDArray[np.bool_]
    partition: NDArray[np.int64]

    @classmethod
    def none(cls, count: int, partition: int) -> _Labels:
        """Return labels that cannot be read."""
        return cls(
            np.zeros(count, np.int64), np.zeros(count), np.zeros(count, np.int64), np.zeros(count, np.bool_),
            np.full(count, partition),
        )  # fmt: skip

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the arrays."""
        return [each.name for each in fields(cls)]

    def counts(self, first: int, partitions: int) -> list[int]:
        """Return how many of the first labels are of each partition."""
        return np.bincount(self.partition[:first], minlength=partitions).tolist()


def _no_records(topic: str, partition: int) -> Records:
    return Records(topic, partition, pa.array([], pa.large_binary()), np.zeros(0, np.int64), np.zeros(0, np.int64))


def _append_ms(records: Records) -> NDArray[np.int64]:
    return records.append_ms if records.append_ms is not None else np.zeros(len(records), np.int64)


def _together(stored: list[tuple[int, pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """Join the small batches of a live log: what is done per batch is then done once for hundreds of rows."""
    for _, group in groupby((rows for _, rows in stored), key=lambda rows: rows.schema):
        table = pa.Table.from_batches(list(group))
        yield from table.combine_chunks().to_batches()


def _values(column: pa.Array) -> Float64s:
    """Return (rows,) float64, NaN for null."""
    return np.where(valid_rows(column), floats_of(column), np.nan)
