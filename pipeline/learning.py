"""The online learner beside the server: reads decisions and labels from the log, learns, and offers snapshots.

The learner is never the server. What it learned reaches decisions only as a snapshot that passed the gate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.columns import floats_of, hash_column, valid_rows
from connectors.decode import decode
from connectors.log import Log
from connectors.secrets import Tokeniser
from models.ftrl import Ftrl
from models.learner import LearnerSettings, OnlineLearner
from models.registry import Registry
from models.registry_types import Deployment, RegistryError
from models.scorer import FTRL
from pipeline.app import App, Task
from pipeline.decisions import Decider
from pipeline.inputs import tokenised
from pipeline.live import decisions_topic, group_of
from pipeline.manifest import decode as decode_manifest
from pipeline.row_columns import RowColumns

Float64s = NDArray[np.float64]
ROWS_MAX = 8192
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

    When it starts, it learns the log's history again: a snapshot says nothing of labels that are still awaited. It
    offers nothing before that is done: what it knows half-way is older than what serves.

    Args:
        app, task: what to learn; its label must come in a stream of its own.
        log: with decisions and labels.
        registry: where snapshots go; None keeps them to itself.
        tokeniser: for sensitive ids.
        settings: of the learner.
        publish_every: labels between two candidates.
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
        partition: int = 0,
    ) -> None:
        if task.label is None or task.label.stream.derived_from is not None:
            raise ValueError(f"task {task.name!r} has no stream of labels to learn from while it runs")
        self._app, self._task, self._log, self._registry = app, task, log, registry
        self._tokeniser, self._settings, self._publish_every = tokeniser, settings, publish_every
        self._partition = partition
        decider = Decider(task, app.plans[task.on.name])
        self._columns = decider.schema.names[-len(decider.names) :]
        self._labels = task.label.stream
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
        self._decisions_at = self._log.begin(decisions_topic(self._app.name), self._partition)
        self._labels_at = self._log.begin(self._labels.name, self._partition)
        self._history_end = self._log.end(self._labels.name, self._partition)
        self._is_relearning = deployment.snapshot is not None
        return True

    def step(self, now_ms: int) -> int:
        """Learn what is new; return how many decisions and labels that were."""
        if not self._start():
            return 0
        return self._read_decisions() + self._read_labels(now_ms)

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
        assert self._learner is not None
        topic, count = decisions_topic(self._app.name), 0
        for rows in _together(self._log.read_rows(topic, self._partition, self._decisions_at, ROWS_MAX)):
            self._decisions_at += rows.num_rows
            count += rows.num_rows
            mine = np.array(rows.column("task").to_pylist()) == self._task.name if len(self._app.tasks) > 1 else None
            if mine is not None:
                rows = rows.filter(pa.array(mine))
            if not rows.num_rows or any(name not in rows.schema.names for name in self._columns):
                continue  # of another task, or of a version of the app with other features
            features = np.column_stack([_values(rows.column(name)) for name in self._columns])
            ids = hash_column(rows.column("event_id")).view(np.int64)
            self._learner.serve(ids, features, _values(rows.column("moe_logit")), _values(rows.column("score")))
        return count

    def _read_labels(self, now_ms: int) -> int:
        assert self._learner is not None and self._task.label is not None
        taken = min(self._labels_taken() - self._labels_at, ROWS_MAX)
        if taken <= 0:
            return 0
        records = self._log.read(self._labels.name, self._partition, self._labels_at, taken)
        self._labels_at += len(records)
        rows = tokenised(decode(self._labels.schema, records).rows, self._labels.schema, self._tokeniser)
        columns = RowColumns(rows, self._labels.schema)
        ids = hash_column(rows.column(self._labels.schema.id).cast(pa.string())).view(np.int64)
        self._learner.label(ids, columns.number(self._task.label.name))
        if self._labels_at < self._history_end:
            return len(records)
        if self._is_relearning:
            self._is_relearning, self._joined_at_publish = False, self._learner.counts["joined"]
            self._learner.publish()  # about what serves: the next candidate is compared with it
        elif self._learner.counts["joined"] - self._joined_at_publish >= self._publish_every:
            self._joined_at_publish = self._learner.counts["joined"]
            self._publish(now_ms)
        return len(records)

    def _labels_taken(self) -> int:
        """Return how far the worker has taken the labels: beyond, their events may not be decided yet."""
        newest = self._log.manifest(group_of(self._app.name, self._task.on.name), self._partition)
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


def _together(stored: list[tuple[int, pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """Join the small batches of a live log: what is done per batch is then done once for hundreds of rows."""
    for _, group in groupby((rows for _, rows in stored), key=lambda rows: rows.schema):
        table = pa.Table.from_batches(list(group))
        yield from table.combine_chunks().to_batches()


def _values(column: pa.Array) -> Float64s:
    """Return (rows,) float64, NaN for null."""
    return np.where(valid_rows(column), floats_of(column), np.nan)
