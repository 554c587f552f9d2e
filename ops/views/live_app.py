"""The figures of all tasks of a running app, and the labels that say how good decisions were."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from connectors.decode import decode
from connectors.log import Log
from connectors.secrets import Tokeniser
from ops.views.live_figures import LiveFigures, Picture
from pipeline.app import AnyTask, App
from pipeline.inputs import tokenised
from pipeline.learning import Learned
from pipeline.live import Step

LABELS_MAX = 4_096  # of a task, read for one picture

Pictures = tuple[Picture, ...]


class AppFigures:
    """Counts the steps of all tasks. `add` is called by the worker, `pictures` by whoever shows them.

    Args:
        app: whose decisions.
        log: where labels are read from that no learner reads; None to do without.
        tokeniser: for sensitive ids.
    """

    def __init__(self, app: App, log: Log | None = None, tokeniser: Tokeniser | None = None) -> None:
        self._figures = {task.name: LiveFigures(app, task.name) for task in app.tasks}
        self._labels = [
            Labels(task, log, tokeniser) for task in app.tasks
            if log is not None and self._figures[task.name].takes_labels and task.label is not None
        ]  # fmt: skip

    def add(self, step: Step, at_s: float) -> None:
        """Count a step that was committed `at_s` seconds after the start."""
        for name, figures in self._figures.items():
            if name in step.decisions or not step.decisions:
                figures.add(step, at_s)

    def pictures(self, elapsed_s: float, learned: Mapping[str, Learned], problems: tuple[str, ...] = ()) -> Pictures:
        """Return all figures as of now, one picture per task; problems stand in the first."""
        for labels in self._labels:
            self._figures[labels.task].label(*labels.read())
        return tuple(
            figures.picture(elapsed_s, learned, problems if place == 0 else ())
            for place, figures in enumerate(self._figures.values())
        )


class Labels:
    """The labels of one task, read from the log as they come: ids of events, and what was said of them."""

    def __init__(self, task: AnyTask, log: Log, tokeniser: Tokeniser | None) -> None:
        assert task.label is not None
        self.task, self._stream, self._field = task.name, task.label.stream, task.label.name
        self._log, self._tokeniser = log, tokeniser
        self._at: dict[int, int] | None = None

    def read(self) -> tuple[list[str], list[str | None]]:
        """Return those that are new, at most LABELS_MAX of a partition."""
        ids: list[str] = []
        said: list[str | None] = []
        if self._at is None:
            partitions = {topic.name: topic.partitions for topic in self._log.topics()}.get(self._stream.name, 0)
            self._at = {each: self._log.begin(self._stream.name, each) for each in range(partitions)}
        for partition, at in self._at.items():
            records = self._log.read(self._stream.name, partition, at, LABELS_MAX)
            if not len(records):
                continue
            self._at[partition] = int(records.offsets[-1]) + 1
            rows = tokenised(decode(self._stream.schema, records).rows, self._stream.schema, self._tokeniser)
            ids += rows.column(self._stream.schema.id).cast(pa.string()).to_pylist()
            said += rows.column(self._field).to_pylist()
        return ids, said
