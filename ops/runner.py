"""Runs an app on the embedded log: workers, the models they follow, the learner beside them, the sinks behind them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from connectors.log import Log
from connectors.secrets import Sealer, Tokeniser
from connectors.sinks import Sink
from models.registry import Registry
from pipeline.app import App
from pipeline.learning import Learned, LearnerLoop
from pipeline.live import Step, Worker, create_topics, decisions_topic
from pipeline.serving import ServedModels

IDLE_WAIT_S = 0.5  # the longest wait for news before models, snapshots and the stop sign are looked at again
LEARNER_WAIT_S = 0.25
REFRESH_EVERY_S = 0.25


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass
class SinkFeed:
    """Brings decisions from the log to a sink, at least once: its position is kept after the sink has them."""

    app: str
    log: Log
    sink: Sink
    name: str
    partition: int = 0
    commit: int = field(init=False, default=0)
    offset: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Go on where the last run of this sink ended."""
        found = self.log.manifest(self._group, self.partition)
        if found is not None:
            self.commit, self.offset = found[0], int(found[1])
        else:
            self.offset = self.log.begin(decisions_topic(self.app), self.partition)

    @property
    def _group(self) -> str:
        return f"{self.app}.sink.{self.name}"

    def step(self, limit: int = 8192) -> int:
        """Write what is new, then note it; return how many rows."""
        count = 0
        for first, rows in self.log.read_rows(decisions_topic(self.app), self.partition, self.offset, limit):
            self.sink.write(rows)
            self.offset, count = first + rows.num_rows, count + rows.num_rows
        if count:
            self.sink.flush()
            with self.log.transaction(self._group, self.partition, self.commit) as transaction:
                transaction.put_manifest(str(self.offset).encode())
            self.commit += 1
            self.log.forget_manifests(self._group, self.partition, self.commit)
        return count


class AppRunner(AbstractContextManager["AppRunner"]):
    """One process that runs an app until it is told to stop.

    Args:
        app: what to run.
        log: the embedded log; topics are made where they are missing.
        registry: which models serve; None lets rules decide alone.
        data: folder for snapshots of state.
        tokeniser, sealer: for sensitive fields.
        sinks: name -> where decisions go besides the log.
        on_step: called after each commit, in the worker's thread.
        learn: whether to run the learners here.
    """

    def __init__(
        self,
        app: App,
        log: Log,
        registry: Registry | None,
        data: Path,
        tokeniser: Tokeniser | None = None,
        sealer: Sealer | None = None,
        sinks: dict[str, Sink] | None = None,
        on_step: Callable[[Step], None] | None = None,
        learn: bool = True,
    ) -> None:
        create_topics(app, log)
        self.app, self._log, self._on_step = app, log, on_step
        self.models: dict[str, ServedModels] = {}
        self.learners: dict[str, LearnerLoop] = {}
        for task in app.tasks:
            if registry is None or (task.model is None and task.learner is None):
                continue
            plan = app.plans[task.on.name]
            specs = [plan.specs[column] for column in plan.columns_of[task.name]]
            self.models[task.name] = ServedModels(registry, task.name, specs)
            self.models[task.name].start()
            label = task.label.stream if task.label is not None else None
            if learn and task.learner is not None and label is not None and label.derived_from is None:
                self.learners[task.name] = LearnerLoop(app, task, log, registry, tokeniser)
        self.workers = [
            Worker(app, plan, log, data / "state", self._served, now_ms, time.perf_counter, tokeniser, sealer)
            for plan in app.plans.values()
        ]
        self.feeds = [SinkFeed(app.name, log, sink, name) for name, sink in (sinks or {}).items()]
        self.problems: list[str] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def _served(self, task: str):  # type: ignore[no-untyped-def]
        from pipeline.decisions import Served

        return self.models[task].current if task in self.models else Served()

    def __exit__(self, *exception: object) -> None:
        """Stop the threads, write a last snapshot and flush the sinks."""
        self.stop()
        for thread in self._threads:
            thread.join()
        for worker in self.workers:
            if worker.commit:
                worker.save()
        for feed in self.feeds:
            feed.step()
            feed.sink.close()

    def stop(self) -> None:
        """Ask `run` to return after the batch it is in; any thread may."""
        self._stop.set()

    @property
    def learned(self) -> dict[str, Learned]:
        """How the learners do, per task."""
        return {name: learner.status for name, learner in self.learners.items()}

    def run(self, until_idle: bool = False) -> None:
        """Take, decide, commit, until stopped; with `until_idle`, until everything in the log is decided."""
        self._threads = [threading.Thread(target=self._refresh, name="models", daemon=True)] if self.models else []
        self._threads += [threading.Thread(target=self._learn, name="learner", daemon=True)] if self.learners else []
        for thread in self._threads:
            thread.start()
        waits: dict[tuple[str, int], int] = {}
        while not self._stop.is_set():
            busy = False
            for worker in self.workers:
                step = worker.step()
                busy = busy or step is not None
                if step is not None and self._on_step is not None:
                    self._on_step(step)
                worker.save_if_due()
            for feed in self.feeds:
                feed.step()
            if busy:
                continue
            if until_idle:
                return
            waits = {each: offset for worker in self.workers for each, offset in worker.waits_for().items()}
            self._log.wait(waits, IDLE_WAIT_S)

    def _refresh(self) -> None:
        """Follow the registry: what shall serve is loaded here, so no batch waits for it."""
        while not self._stop.wait(REFRESH_EVERY_S):
            for models in self.models.values():
                models.refresh(time.monotonic_ns() // 1_000_000)

    def _learn(self) -> None:
        """Learn from the log while the workers decide; a failure ends learning, never deciding."""
        while not self._stop.is_set():
            for name, learner in list(self.learners.items()):
                try:
                    learned = learner.step(now_ms())
                except (ValueError, OSError, pa.ArrowException) as error:
                    self.problems.append(f"the learner of {name!r} stopped: {error}")
                    del self.learners[name]
                    continue
                if not learned:
                    self._stop.wait(LEARNER_WAIT_S)
            if not self.learners:
                return
