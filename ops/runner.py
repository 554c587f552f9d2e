"""Runs an app on the embedded log: workers, the models they follow, the learner beside them, the sinks behind them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connectors.log import Log
from connectors.secrets import Sealer, Tokeniser
from connectors.sinks import Sink
from kernels.compiled import load_imported
from models.registry import Registry
from models.runtimes import Gpu
from ops.agent_feed import AgentFeed, AgentLoop
from ops.beside import STEP_S, Again, Asked, Following, Learning, learns_live, now_ms, queue_of, quick_to_answer
from ops.retention import RETENTION_EVERY_S, Retention
from ops.side_by_side import side_by_side
from ops.sink_feed import SinkFeed
from pipeline.app import App
from pipeline.families import families_of
from pipeline.learning import PUBLISH_EVERY_LABELS, Learned, LearnerLoop
from pipeline.live import Step, Worker, create_topics, stages_of
from pipeline.snapshots import SNAPSHOT_EVERY_MS

if TYPE_CHECKING:
    from ops.metrics.metrics import Metrics  # prometheus-client is loaded only where somebody wants to see

IDLE_WAIT_S = 0.5  # the longest wait for news before models, snapshots and the stop sign are looked at again


class AppRunner(AbstractContextManager["AppRunner"]):
    """One process that runs an app until it is told to stop.

    Args:
        app: what to run.
        log: the embedded log; topics are made where they are missing.
        registry: which models serve; None lets rules decide alone.
        data: folder for snapshots of state, in a folder `state`.
        tokeniser, sealer: for sensitive fields.
        sinks: name -> where decisions go besides the log.
        on_step: called after each commit, in the worker's thread; streams that share nothing have threads of their own.
        learn: whether to run the learners here.
        publish_every: labels between two snapshots that a learner offers.
        snapshot_every_ms: between two snapshots of state.
        state: folder or URL of snapshots of state, if they are to be elsewhere.
        gpu: whether a GPU computes networks: "never", "prefer" or "require".
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
        state: Path | str | None = None,
        gpu: Gpu = "never",
    ) -> None:
        create_topics(app, log)
        self._metrics = metrics
        self.app, self._log, self._on_step, self._snapshot_every_ms = app, log, on_step, snapshot_every_ms
        self._following = Following(
            app, registry, metrics.serving if metrics is not None else None, gpu, queue_of(app, metrics)
        )
        self._learning = Learning(
            {
                task.name: LearnerLoop(app, task, log, registry, tokeniser, publish_every=publish_every)
                for task in app.tasks
                if learn and registry is not None and learns_live(task)
            }
        )
        self.workers: list[Worker] = []
        place = data / "state" if state is None else state
        stages = {stage.group: stage for stage in stages_of(app)}
        self._families: list[list[Worker]] = []
        for family in families_of(app, stages.values()):
            self._families.append([])
            for group in family.groups:
                began_s = time.perf_counter()
                worker = Worker(
                    app, stages[group], log, place, self._following.served, now_ms, time.perf_counter, tokeniser,
                    sealer, step_s=STEP_S, ahead=partial(self._following.queue.ahead, family.level),
                )  # fmt: skip
                self._families[-1].append(worker)
                self.workers.append(worker)
                if metrics is not None:
                    metrics.assigned(worker, time.perf_counter() - began_s)
        load_imported()  # or the first event waits for a kernel
        self.feeds = [SinkFeed(app.name, log, sink, name) for name, sink in (sinks or {}).items()]
        self._agent_loop = AgentLoop() if app.agents else None
        if self._agent_loop is not None:
            self.feeds += [AgentFeed(app.name, log, agent, self._agent_loop) for agent in app.agents]
        self.retention = Retention(app.name, log, self.workers, self.feeds)
        self._removing = Again("retention", self._remove_old, RETENTION_EVERY_S)
        self._failed: dict[str, str] = {}
        self._stop = threading.Event()  # everything but the sinks, which end after the last decision
        self._stop_feeds = threading.Event()
        self._feed_threads: list[threading.Thread] = []
        if metrics is not None:
            metrics.ask(end=log.end, learned=lambda: self.learned, problems=lambda: self.problems)

    def __exit__(self, *exception: object) -> None:
        """Stop the threads, write a last snapshot and what the sinks still wait for."""
        self.stop()
        self._following.stop()
        self._learning.stop()
        self._removing.stop()
        self._stop_feeds.set()
        for feed in self._feed_threads:
            feed.join()
        if self._agent_loop is not None:
            self._agent_loop.close()
        for worker in self.workers:
            if worker.commit:
                try:
                    worker.save()
                except (OSError, ValueError) as error:
                    self._failed["snapshot"] = f"no last snapshot could be written: {error}; a restart replays the log"

    def submit(self, task: str, rows: Any, within_s: float = 0.0) -> Asked:
        """Ask the models of a task, beside its stream; see `Following.submit`."""
        return self._following.submit(task, rows, within_s)

    def stop(self) -> None:
        """Ask `run` to return after the batch it is in; any thread may."""
        self._stop.set()

    @property
    def problems(self) -> list[str]:
        """What is wrong beside the decisions, in words."""
        found: list[str | None] = list(self._failed.values())
        found += [*self._following.problems, *self._learning.problems]
        found += [worker.problem for worker in self.workers]
        found += [*(feed.problem for feed in self.feeds), self.retention.problem]
        return [each for each in found if each]

    @property
    def learned(self) -> dict[str, Learned]:
        """How the learners do, per task."""
        return self._learning.learned

    def run(self, until_idle: bool = False) -> None:
        """Take, decide, commit, until stopped; with `until_idle`, until everything in the log is decided.

        Raises:
            CommitConflictError: another process runs the same app on this log.
            LogError: the log cannot be read or written. What was committed is whole; a restart goes on behind it.
        """
        with quick_to_answer():
            self._start_threads()
            loops = [partial(self._decide, workers, until_idle) for workers in self._families]
            side_by_side(loops, self.stop, "tasks")

    def _decide(self, workers: Sequence[Worker], until_idle: bool) -> None:
        """Take, decide, commit what belongs together, until stopped."""
        while not self._stop.is_set():
            busy = False
            for worker in workers:
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
            waits = {each: offset for worker in workers for each, offset in worker.waits_for().items()}
            self._log.wait(waits, IDLE_WAIT_S)

    def _start_threads(self) -> None:
        self._following.start()
        self._learning.start()
        self._removing.start()
        self._feed_threads = [
            threading.Thread(target=feed.run, args=(self._stop_feeds,), name=f"sink {feed.name}", daemon=True)
            for feed in self.feeds
        ]
        for thread in self._feed_threads:
            thread.start()

    def _remove_old(self) -> bool:
        self.retention.step()
        return False
