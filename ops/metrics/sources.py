"""The metrics that are looked up when somebody asks: lag, size of the state, what the learners know of themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from connectors.errors import ConnectorError
from ops.metrics.catalogue import PLACE
from ops.metrics.families import Counter, Gauge

if TYPE_CHECKING:
    from pipeline.learning import Learned
    from pipeline.live import Worker

Place = tuple[str, str, str]


class Sources:
    """Asks a process's workers, log and learners; see `ops.metrics.metrics.Metrics.ask`."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._end: Callable[[str, int], int] | None = None
        self._learned: Callable[[], Mapping[str, Learned]] = dict
        self._problems: Callable[[], list[str]] = list
        self._waiting: Callable[[], Mapping[str, int]] = dict

    def set(
        self,
        end: Callable[[str, int], int] | None = None,
        learned: Callable[[], Mapping[str, Learned]] | None = None,
        problems: Callable[[], list[str]] | None = None,
        waiting: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        """Set whom to ask; None leaves it as it is."""
        self._end = end or self._end
        self._learned, self._problems = learned or self._learned, problems or self._problems
        self._waiting = waiting or self._waiting

    def problems(self) -> list[str]:
        """Return what is wrong beside the decisions, in words."""
        return self._problems()

    def families(self, workers: Mapping[Place, Worker], newest_s: Mapping[Place, float], now_s: float) -> list[Metric]:
        """Return everything as of now.

        Args:
            workers: of the partitions that this process owns.
            newest_s: when the log took the newest event each decided.
            now_s: seconds since the epoch.
        """
        problems = Gauge("pelton_problems", "What is wrong beside the decisions; /healthz has the words.", ("app",))
        problems.set((self._app,), len(self._problems()))
        partitions = Gauge("pelton_partitions", "Partitions that this process owns, per stage.", PLACE[:2])
        for app, stage, _ in workers:
            partitions.set((app, stage), sum(place[:2] == (app, stage) for place in workers))
        rows = Gauge("pelton_queue_rows", "Rows that wait for the models.", ("app", "task"))
        for task, count in self._waiting().items():
            rows.set((self._app, task), count)
        found = [problems.family(), partitions.family(), rows.family()]
        return found + self._lag(workers, newest_s, now_s) + _state(workers) + self._learners()

    def _lag(self, workers: Mapping[Place, Worker], newest_s: Mapping[Place, float], now_s: float) -> list[Metric]:
        records = Gauge("pelton_lag_records", "Records in the log that wait to be taken.", (*PLACE, "stream"))
        seconds = Gauge(
            "pelton_lag_seconds", "Age of the newest event decided while others wait; 0 if none does.", PLACE
        )
        if self._end is None:
            return []
        for place, worker in workers.items():
            waiting = 0
            for topic, position in dict(worker.positions).items():
                try:
                    behind = max(self._end(topic, worker.partition) - position, 0)
                except ConnectorError:  # the log is away or being closed: no figure is better than an old one
                    continue
                records.set((*place, topic), behind)
                waiting += behind
            seconds.set(place, max(now_s - newest_s.get(place, now_s), 0.0) if waiting else 0.0)
        return [records.family(), seconds.family()]

    def _learners(self) -> list[Metric]:
        labels = Counter(
            "pelton_learner_labels_total", "Labels that the learner saw, by what became of them; relearned at a start.",
            ("app", "task", "fate"),
        )  # fmt: skip
        auc = Gauge(
            "pelton_learner_auc", "Prequential AUC over the newest labels: of what was served, of the learner itself.",
            ("app", "task", "of"),
        )  # fmt: skip
        published = Counter("pelton_learner_published_total", "Snapshots that passed the gate.", ("app", "task"))
        refused = Gauge(
            "pelton_learner_refused", "1 while the newest candidate did not pass the gate.", ("app", "task")
        )
        for task, learned in self._learned().items():
            of = (self._app, task)
            for fate, count in learned.counts.items():
                labels.add((*of, fate), count)
            auc.set((*of, "served"), learned.live_auc)
            auc.set((*of, "learner"), learned.progressive_auc)
            published.add(of, learned.snapshots)
            refused.set(of, float(bool(learned.refused)))
        return [labels.family(), auc.family(), published.family(), refused.family()]


def _state(workers: Mapping[Place, Worker]) -> list[Metric]:
    """Read the sizes of windows; the worker may be writing, so a figure can be one commit old or new."""
    of = (*PLACE, "windows")
    keys = Gauge("pelton_state_keys", "Keys that have events in windows.", of)
    rows = Gauge("pelton_state_rows", "Events in windows.", of)
    size = Gauge("pelton_state_bytes", "Memory of windows.", of)
    capped = Counter(
        "pelton_state_capped_rows_total", "Events of hot keys dropped beyond the newest that are kept.", of
    )
    freed = Counter("pelton_state_freed_keys_total", "Idle keys freed.", of)
    for place, worker in workers.items():
        engine = worker.engine
        for plan, group in zip(engine.plan.groups, engine.groups, strict=True):
            labels, now = (*place, f"{plan.kind}.{plan.name}"), group.statistics()
            keys.set(labels, now["keys"])
            rows.set(labels, now["rows"])
            size.set(labels, now["bytes"])
            capped.add(labels, now["rows_capped"])
            freed.add(labels, now["keys_freed"])
    return [each.family() for each in (keys, rows, size, capped, freed)]
