"""Runs an app on the embedded log: workers, the models they follow, the learner beside them, the sinks behind them."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from connectors.log import Log
from connectors.secrets import Sealer, Tokeniser
from connectors.sinks import Sink
from kernels.compiled import load_imported
from models.registry import Registry
from ops.sink_feed import SinkFeed
from pipeline.app import App
from pipeline.decisions import Served
from pipeline.learning import PUBLISH_EVERY_LABELS, Learned, LearnerLoop
from pipeline.live import Step, Worker, create_topics
from pipeline.recovery import SNAPSHOT_EVERY_MS
from pipeline.serving import ServedModels

if TYPE_CHECKING:
    from ops.metrics import Metrics  # prometheus-client is loaded only where somebody wants to see

IDLE_WAIT_S = 0.5  # the longest wait for news before models, snapshots and the stop sign are looked at again
LEARNER_EVERY_S = 0.25
LEARNER_ROWS_BUSY = 4096  # a step that read this much has more to read
REFRESH_EVERY_S = 0.25
SWITCH_S = 0.0005  # a worker that comes back from a kernel gets the interpreter from the learner within this


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


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
        publish_every: labels between two snapshots that a learner offers.
        snapshot_every_ms: between two snapshots of state.
        metrics: told of everything that happens.

    Attributes:
        problems: what went wrong beside the decisions, in words; the decisions go on.
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
        publish_every: int = PUBLISH_EVERY_LABELS,
        snapshot_every_ms: int = SNAPSHOT_EVERY_MS,
        metrics: Metrics | None = None,
    ) -> None:
        create_topics(app, log)
        self._metrics = metrics
        self.app, self._log, self._on_step, self._snapshot_every_ms = app, log, on_step, snapshot_every_ms
        self.models: dict[str, ServedModels] = {}
        self.learners: dict[str, LearnerLoop] = {}
        for task in app.tasks:
            if registry is None or (task.model is None and task.learner is None):
                continue
            plan = app.plans[task.on.name]
            specs = [plan.specs[column] for column in plan.columns_of[task.name]]
            self.models[task.name] = ServedModels(registry, task.name, specs)
            self.models[task.name].start()
            self._tell_models(task.name)
            if registry.generation(task.name) == 0:  # nothing was ever promoted: that is no problem
                self.models[task.name].problem = None
            label = task.label.stream if task.label is not None else None
            if learn and task.learner is not None and label is not None and label.derived_from is None:
                learner = LearnerLoop(app, task, log, registry, tokeniser, publish_every=publish_every)
                self.learners[task.name] = learner
        self.workers: list[Worker] = []
        for plan in app.plans.values():
            began_s = time.perf_counter()
            worker = Worker(app, plan, log, data / "state", self._served, now_ms, time.perf_counter, tokeniser, sealer)
            self.workers.append(worker)
            if metrics is not None:
                metrics.assigned(worker, time.perf_counter() - began_s)
        load_imported()  # or the first event waits for a kernel
        self.feeds = [SinkFeed(app.name, log, sink, name) for name, sink in (sinks or {}).items()]
        self._failed: dict[str, str] = {}
        self._stop = threading.Event()  # everything but the sinks, which end after the last decision
        self._stop_feeds = threading.Event()
        self._threads: list[threading.Thread] = []
        self._feed_threads: list[threading.Thread] = []
        if metrics is not None:
            metrics.ask(end=log.end, learned=lambda: self.learned, problems=lambda: self.problems)

    def _served(self, task: str) -> Served:
        return self.models[task].current if task in self.models else Served()

    def _tell_models(self, task: str) -> None:
        if self._metrics is not None:
            self._metrics.serving(task, self.models[task].current)

    def __exit__(self, *exception: object) -> None:
        """Stop the threads, write a last snapshot and what the sinks still wait for."""
        self.stop()
        for thread in self._threads:
            thread.join()
        self._stop_feeds.set()
        for feed in self._feed_threads:
            feed.join()
        for worker in self.workers:
            if worker.commit:
                try:
                    worker.save()
                except (OSError, ValueError) as error:
                    self._failed["snapshot"] = f"no last snapshot could be written: {error}; a restart replays the log"

    def stop(self) -> None:
        """Ask `run` to return after the batch it is in; any thread may."""
        self._stop.set()

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    @property
    def problems(self) -> list[str]:
        """What is wrong beside the decisions, in words."""
        found: list[str | None] = list(self._failed.values())
        found += [models.problem for models in self.models.values()]
        found += [worker.problem for worker in self.workers]
        found += [feed.problem for feed in self.feeds]
        return [each for each in found if each]

    @property
    def learned(self) -> dict[str, Learned]:
        """How the learners do, per task."""
        return {name: learner.status for name, learner in list(self.learners.items())}

    def run(self, until_idle: bool = False) -> None:
        """Take, decide, commit, until stopped; with `until_idle`, until everything in the log is decided.

        Raises:
            CommitConflictError: another process runs the same app on this log.
            LogError: the log cannot be read or written. What was committed is whole; a restart goes on behind it.
        """
        with _quick_to_answer():
            self._start_threads()
            while not self._stop.is_set():
                busy = False
                for worker in self.workers:
                    step = worker.step()
                    busy = busy or step is not None
                    if step is not None and self._on_step is not None:
                        self._on_step(step)
                    if self._metrics is not None:
                        self._metrics.step(worker, step) if step is not None else self._metrics.beat(worker)
                    worker.save_if_due(self._snapshot_every_ms)
                if busy:
                    continue
                if until_idle:
                    return
                waits = {each: offset for worker in self.workers for each, offset in worker.waits_for().items()}
                self._log.wait(waits, IDLE_WAIT_S)

    def _start_threads(self) -> None:
        beside = {"models": self._refresh} if self.models else {}
        beside |= {"learner": self._learn} if self.learners else {}
        self._threads = [threading.Thread(target=work, name=name, daemon=True) for name, work in beside.items()]
        self._feed_threads = [
            threading.Thread(target=feed.run, args=(self._stop_feeds,), name=f"sink {feed.name}", daemon=True)
            for feed in self.feeds
        ]
        for thread in (*self._threads, *self._feed_threads):
            thread.start()

    def _refresh(self) -> None:
        """Follow the registry: what shall serve is loaded here, so no batch waits for it."""
        while not self._stop.wait(REFRESH_EVERY_S):
            for name, models in self.models.items():
                try:
                    if models.refresh(time.monotonic_ns() // 1_000_000):
                        self._tell_models(name)
                    self._failed.pop(f"models of {name}", None)
                except Exception as error:  # a registry that cannot be reached changes nothing about what serves
                    self._failed[f"models of {name}"] = f"the registry cannot be asked what serves {name!r}: {error}"

    def _learn(self) -> None:
        """Learn from the log while the workers decide; a failure ends learning, never deciding."""
        while not self._stop.is_set():
            busy = False
            for name, learner in list(self.learners.items()):
                try:
                    busy = learner.step(now_ms()) >= LEARNER_ROWS_BUSY or busy
                except Exception as error:
                    self._failed[f"learner of {name}"] = f"the learner of {name!r} stopped: {error}"
                    del self.learners[name]
            if not self.learners:
                return
            if not busy:
                self._stop.wait(LEARNER_EVERY_S)


@contextmanager
def _quick_to_answer() -> Iterator[None]:
    """Keep pauses short: what is there already is never collected, and threads take turns more often."""
    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(switch_s)
