"""A table to learn from: features as they would have been served, beside the labels that came to be known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from connectors.records import Chunk
from models.features import FeatureSpec
from pipeline.app import Task
from pipeline.engine import Featured
from pipeline.plan import StreamPlan
from pipeline.row_columns import RowColumns

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """The events of a task, in log order.

    Attributes:
        features: (events, features) float64, NaN is null.
        specs: what each column is.
        labels: (events,) float64: 0, 1, or NaN where none came.
        known_ms: (events,) when the label became known; the largest int64 where none came.
        times_ms: (events,) event times.
        entities: (events,) hashes of the field that reports count by; zeros without one.
        ids: (events,) hashes of the event ids.
    """

    features: Float64s
    specs: tuple[FeatureSpec, ...]
    labels: Float64s
    known_ms: Int64s
    times_ms: Int64s
    entities: NDArray[np.uint64]
    ids: NDArray[np.uint64]

    def __len__(self) -> int:
        return int(self.times_ms.size)

    def between(self, start_ms: int, end_ms: int) -> Dataset:
        """Return the events with start <= time < end."""
        return self.where((self.times_ms >= start_ms) & (self.times_ms < end_ms))

    def where(self, chosen: NDArray[np.bool_]) -> Dataset:
        """Return some of the events."""
        return Dataset(
            self.features[chosen], self.specs, self.labels[chosen], self.known_ms[chosen], self.times_ms[chosen],
            self.entities[chosen], self.ids[chosen],
        )  # fmt: skip


def collect(
    task: Task,
    plan: StreamPlan,
    commits: Iterable[tuple[Mapping[str, Chunk], Featured]],
    since_ms: int | None = None,
    step: Callable[[], None] | None = None,
) -> Dataset:
    """Run a replay and keep what a task's models learn from.

    Args:
        task: whose features and labels.
        plan: of its stream.
        commits: a `pipeline.replay.Replay`.
        since_ms: keep only events from then on; the earlier ones still fill the windows.
        step: called after each commit, for a progress bar.

    Raises:
        ValueError: the task has no label.
    """
    if task.label is None or plan.facts is None:
        raise ValueError(f"task {task.name!r} has no label; give it one to learn from: label=frauds.is_fraud")
    columns = list(plan.columns_of[task.name])
    matrices, times, entities, ids = [], [], [], []
    labels: list[tuple[NDArray[np.uint64], Float64s, Int64s]] = []
    for chunks, featured in commits:
        labels.append(_labels_of(task, plan, chunks, featured))
        times_ms = featured.columns.times_ms
        keep = times_ms >= since_ms if since_ms is not None else np.ones(len(featured), np.bool_)
        matrices.append(featured.matrix[keep][:, columns])
        times.append(times_ms[keep])
        ids.append(featured.columns.hashes(task.on.schema.id)[keep])
        entity = featured.columns.hashes(task.entity) if task.entity else np.zeros(len(featured), np.uint64)
        entities.append(entity[keep])
        if step is not None:
            step()
    all_ids = np.concatenate(ids) if ids else np.zeros(0, np.uint64)
    values, known_ms = _joined(all_ids, labels)
    return Dataset(
        np.concatenate(matrices) if matrices else np.zeros((0, len(columns))),
        tuple(plan.specs[column] for column in columns), values, known_ms,
        np.concatenate(times) if times else np.zeros(0, np.int64),
        np.concatenate(entities) if entities else np.zeros(0, np.uint64), all_ids,
    )  # fmt: skip


def _labels_of(
    task: Task, plan: StreamPlan, chunks: Mapping[str, Chunk], featured: Featured
) -> tuple[NDArray[np.uint64], Float64s, Int64s]:
    """Return the labels that a commit brought: ids, values, when each is known."""
    assert plan.facts is not None and task.label is not None
    if plan.facts.derived_from is not None:
        _, field, delay_ms = plan.facts.derived_from
        columns = featured.columns
        return columns.hashes(task.on.schema.id), columns.number(field), columns.times_ms + delay_ms
    if plan.facts.name not in chunks:
        return np.zeros(0, np.uint64), np.zeros(0), np.zeros(0, np.int64)
    columns = RowColumns(chunks[plan.facts.name].decoded.rows, plan.facts.schema)
    return columns.hashes(plan.facts.schema.id), columns.number(task.label.name), columns.times_ms


def _joined(
    ids: NDArray[np.uint64], labels: list[tuple[NDArray[np.uint64], Float64s, Int64s]]
) -> tuple[Float64s, Int64s]:
    """Return for each event its first label and when it was known."""
    values = np.full(ids.size, np.nan)
    known_ms = np.full(ids.size, np.iinfo(np.int64).max)
    if not labels or not ids.size:
        return values, known_ms
    label_ids, label_values, label_known = (np.concatenate(each) for each in zip(*labels, strict=True))
    there = ~np.isnan(label_values)
    label_ids, label_values, label_known = label_ids[there], label_values[there], label_known[there]
    if not label_ids.size:
        return values, known_ms
    order = np.argsort(label_ids, kind="stable")
    label_ids, label_values, label_known = label_ids[order], label_values[order], label_known[order]
    place = np.minimum(np.searchsorted(label_ids, ids), label_ids.size - 1)
    found = label_ids[place] == ids
    values[found], known_ms[found] = label_values[place][found], label_known[place][found]
    return values, known_ms
