"""What a process tells Prometheus about itself: counted once per commit, never per event; asked for the rest.

A runner calls, for each `pipeline.live.Worker` (a stage of a stream, and a partition):

* `assigned(worker, seconds)` when it owns the partition and its state is there, also when a commit failed and the state
  was taken from the log anew; `revoked(worker)` when it no longer owns it; `rebalanced()` once per change of who owns
  what;
* `step(worker, step)` after each commit, `beat(worker)` whenever it looked for news and found none;
* `serving(task, served)` when other models begin to decide; `batch(task, ...)` after each batch that models computed,
  `held(task, seconds)` when somebody was held because the queue in front of them was full.

`ask` takes functions that are called when somebody looks. Every method may be called from any thread.
"""

from __future__ import annotations

import importlib.metadata
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pyarrow.compute as pc
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ops.metrics.catalogue import Catalogue
from ops.metrics.experts import expert_families
from ops.metrics.sources import Sources

if TYPE_CHECKING:
    from pipeline.app import App
    from pipeline.decisions import Served
    from pipeline.learning import Learned
    from pipeline.live import Step, Worker

STALLED_S = 30.0  # a worker that neither commits nor looks for news for so long is stuck
DECISIONS = ("allow", "review", "block")
FATES = ("applied", "late", "future", "duplicate", "invalid")

Place = tuple[str, str, str]  # app, stage, partition


@dataclass(frozen=True)
class _Saved:
    """What was known of a worker's snapshots: how many, bytes of all, what is wrong."""

    written: int = 0
    size: int = 0
    problem: str | None = None


class Metrics(Collector):
    """All metrics of one process that runs an app, in a registry of their own.

    Args:
        app: what it runs.
        log: what it runs on, in a word.
        clock_s: seconds since the epoch.
        timer_s: seconds of a clock that never goes back.

    Attributes:
        registry: what `/metrics` writes out.
    """

    def __init__(
        self,
        app: App,
        log: str = "embedded",
        clock_s: Callable[[], float] = time.time,
        timer_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._clock_s, self._timer_s = app.name, clock_s, timer_s
        self._lock = threading.Lock()
        self._counted = Catalogue()
        self._workers: dict[Place, Worker] = {}
        self._ledgers: dict[Place, dict[str, Mapping[str, int]]] = {}  # as of the last commit that was counted
        self._newest_s: dict[Place, float] = {}  # when the log took the newest event decided
        self._beats_s: dict[Place, float] = {}
        self._serving: dict[str, tuple[str, str, str]] = {}
        self._served: dict[str, Served] = {}
        self._saved: dict[Place, _Saved] = {}
        self._stopped: str | None = "starting: the state is taken from the log"
        self._sources = Sources(app.name)
        self._counted.info.set((app.name, log, _version()), 1)
        self._counted.rebalances.add((app.name,), 0)
        for task in app.tasks:
            for decision in DECISIONS:
                self._counted.decisions.add((app.name, task.name, decision), 0)
            self._counted.held.add((app.name, task.name), 0)
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    # ---- told by the runner -------------------------------------------------------------------------------------

    def assigned(self, worker: Worker, seconds: float) -> None:
        """Watch a worker whose state was recovered in that many seconds: this process owns its partition now."""
        place = self._place(worker)
        with self._lock:
            cause = "aborted" if place in self._workers else "assigned"
            self._counted.recoveries.add((*place[:2], cause), seconds)
            self._workers[place] = worker
            self._ledgers[place] = {name: dict(vars(ledger)) for name, ledger in worker.ledgers.items()}
            self._newest_s[place] = self._clock_s()
            counted = self._counted
            counted.commits.add(place, 0)
            counted.dead.add(place, 0)
            for outcome in ("written", "failed"):
                counted.snapshots.add((*place, outcome), 0)
            for name in worker.ledgers:
                counted.taken.add((*place, name), 0)
                for fate in FATES:
                    counted.records.add((*place, name, fate), 0)
            counted.snapshot_time.set(place, self._clock_s())
            counted.replayed.add(place[:2], worker.replayed)
            self._beats_s.setdefault(place, self._timer_s())  # taken again and again is no sign of life
            self._stopped = None

    def revoked(self, worker: Worker) -> None:
        """Forget a worker: another process owns its partition, or none."""
        place = self._place(worker)
        with self._lock:
            for kept in (self._workers, self._ledgers, self._newest_s, self._beats_s, self._saved):
                cast("dict[Place, object]", kept).pop(place, None)
            for gauge in (self._counted.threshold, self._counted.snapshot_time, self._counted.snapshot_bytes):
                gauge.forget(place)

    def rebalanced(self) -> None:
        """Count a change of who owns which partitions; who owns none afterwards has nothing to do."""
        with self._lock:
            self._counted.rebalances.add((self._app,))
            self._stopped = None

    def step(self, worker: Worker, step: Step) -> None:
        """Count a commit; its seconds weigh as much as it decided events, for each waited for all of it."""
        place, manifest, events = self._place(worker), step.manifest, len(step.append_ms)
        waits_s = (step.committed_ms - step.append_ms) / 1000.0
        by_task = {name: _counts(rows.column("decision")) for name, rows in step.decisions.items() if rows.num_rows}
        with self._lock:
            counted = self._counted
            counted.commits.add(place)
            counted.dead.add(place, step.dead)
            self._count_ledgers(place, manifest.ledgers)
            if events:
                if step.decisions:  # not where events only pass through on their way to a later stage
                    counted.latency.add_many(place[:2], waits_s.clip(min=0.0))
                self._newest_s[place] = float(step.append_ms.max()) / 1000
            for part, spent_s in step.seconds.items():
                counted.busy.add((*place[:2], part), spent_s)
                if events:
                    counted.steps.add((*place[:2], part), spent_s, events)
            for task, decisions in by_task.items():
                for decision, times in decisions.items():
                    counted.decisions.add((self._app, task, decision), times)
                counted.rungs.add((self._app, task, manifest.rungs.get(task, "rules")), step.decisions[task].num_rows)
                threshold = step.decisions[task].column("threshold")[-1].as_py()
                if threshold is not None:
                    counted.threshold.set((*place, task), threshold)
            self._look_at_snapshots(place, worker)
            self._beats_s[place] = self._timer_s()
            self._stopped = None

    def _count_ledgers(self, place: Place, ledgers: Mapping[str, Mapping[str, int]]) -> None:
        before = self._ledgers.setdefault(place, {})
        for name, counts in ledgers.items():
            was = before.get(name, {})
            if counts == was:
                continue
            self._counted.taken.add((*place, name), counts["taken"] - was.get("taken", 0))
            for fate in FATES:
                self._counted.records.add((*place, name, fate), counts[fate] - was.get(fate, 0))
            before[name] = counts

    def beat(self, worker: Worker) -> None:
        """Say that a worker looked for news and found none."""
        place = self._place(worker)
        with self._lock:
            if place in self._workers:
                self._look_at_snapshots(place, worker)
                self._beats_s[place] = self._timer_s()
                self._stopped = None

    def _look_at_snapshots(self, place: Place, worker: Worker) -> None:
        """Notice between two commits what became of a snapshot that a thread writes."""
        now, was = worker.snapshots, self._saved.get(place, _Saved())
        if now.written == was.written and now.problem == was.problem:
            return
        if now.written > was.written:
            self._counted.snapshots.add((*place, "written"), now.written - was.written)
            self._counted.snapshot_time.set(place, self._clock_s())
            self._counted.snapshot_bytes.set(place, now.store.bytes_written - was.size)
        if now.problem is not None and now.problem != was.problem:
            self._counted.snapshots.add((*place, "failed"))
        self._saved[place] = _Saved(now.written, now.store.bytes_written, now.problem)

    def serving(self, task: str, served: Served) -> None:
        """Say which models decide a task from now on."""
        now = (served.bundle, served.snapshot, served.rung)
        with self._lock:
            self._served[task] = served
            if self._serving.get(task) == now:
                return
            self._counted.changes.add((self._app, task), 1 if task in self._serving else 0)
            self._serving[task] = now
            self._counted.serving_info.forget((self._app, task))
            self._counted.serving_time.forget((self._app, task))
            self._counted.serving_info.set((self._app, task, *now), 1)
            self._counted.serving_time.set((self._app, task, *now), self._clock_s())

    def batch(self, task: str, rows: int, waits_s: list[float]) -> None:
        """Count a batch of a task that models computed, and how long each caller's rows had waited for it."""
        with self._lock:
            self._counted.batches.add((self._app, task), rows)
            for wait_s in waits_s:
                self._counted.waits.add((self._app, task), wait_s)

    def held(self, task: str, seconds: float) -> None:
        """Count how long a caller was held because too much of a task waited for the models."""
        with self._lock:
            self._counted.held.add((self._app, task), seconds)

    def stopped(self, problem: str) -> None:
        """Say why nothing is decided at present; the next commit, or the next partition, takes it back."""
        with self._lock:
            self._stopped = problem

    # ---- asked by whoever looks ---------------------------------------------------------------------------------

    def ask(
        self,
        end: Callable[[str, int], int] | None = None,
        learned: Callable[[], Mapping[str, Learned]] | None = None,
        problems: Callable[[], list[str]] | None = None,
        waiting: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        """Set functions that are called at every look, in the thread of whoever looks; None leaves one as it is.

        Args:
            end: topic, partition -> the offset after the newest record; it answers at once, or raises ConnectorError.
            learned: what the learners know of themselves, per task.
            problems: what is wrong beside the decisions, in words.
            waiting: rows that wait for the models, per task.
        """
        self._sources.set(end, learned, problems, waiting)

    @property
    def problems(self) -> list[str]:
        """What is wrong beside the decisions, in words."""
        return self._sources.problems()

    @property
    def stalled(self) -> str | None:
        """Why nothing is decided at present; None while every worker commits or has nothing to do."""
        now_s = self._timer_s()
        with self._lock:
            if self._stopped is not None:
                return self._stopped
            late = [(now_s - at_s, place) for place, at_s in self._beats_s.items() if now_s - at_s > STALLED_S]
        if not late:
            return None
        longest_s, (_, stage, partition) = max(late)
        return (
            f"{stage} partition {partition} has neither committed nor looked for news for {longest_s:.0f} s; "
            "its last log lines, or a stack (py-spy dump --pid PID), say what it waits for"
        )

    def collect(self) -> Iterable[Metric]:
        """Give prometheus-client everything there is; called at every look."""
        with self._lock:
            workers, newest_s, served = dict(self._workers), dict(self._newest_s), dict(self._served)
            counted = [each.family() for each in self._counted.all()]
        asked = self._sources.families(workers, newest_s, self._clock_s())
        return [*counted, *expert_families(self._app, served), *asked]

    def describe(self) -> Iterable[Metric]:
        """Name nothing in advance, so that registering asks no source."""
        return []

    def _place(self, worker: Worker) -> Place:
        return self._app, worker.group.removeprefix(f"{self._app}."), str(worker.partition)


def _version() -> str:
    try:
        return importlib.metadata.version("pelton")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that nobody installed
        return "unknown"


def _counts(decisions: object) -> dict[str, int]:
    counted = pc.value_counts(decisions)
    return dict(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True))
