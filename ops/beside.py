"""What runs beside the workers: the models that follow the registry, and the learner."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard

from connectors.log import LogError
from connectors.schema_registry import RegistryAwayError
from models.batch_queue import BatchQueue
from models.registry import Registry
from models.runtimes import Gpu
from pipeline.app import AnyTask, App, Task
from pipeline.decisions import Served
from pipeline.families import levels_of
from pipeline.kinds import submit, timed_scorer_of
from pipeline.learning import Learned, LearnerLoop
from pipeline.serving import ServedModels

if TYPE_CHECKING:
    from ops.metrics.metrics import Metrics

LEARNER_EVERY_S = 0.25
STEP_S = 0.1  # about how long a commit's work may take: decisions of a backlog come out again and again
LEARNER_ROWS_BUSY = 4096  # a step that read this much has more to read
REFRESH_EVERY_S = 0.25
SWITCH_S = 0.0005  # a worker that comes back from a kernel gets the interpreter from the learner within this


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def learns_live(task: AnyTask) -> TypeGuard[Task]:
    """Whether a task's learner can learn while it runs: its labels come in a stream of their own."""
    return (
        isinstance(task, Task)
        and task.learner is not None
        and task.label is not None
        and task.label.stream.derived_from is None
    )


class Again:
    """A thread that does something again and again.

    Args:
        name: of the thread.
        step: does it; says whether there is more to do at once.
        every_s: between two steps.
    """

    def __init__(self, name: str, step: Callable[[], bool], every_s: float) -> None:
        self._step, self._every_s = step, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin, if it did not."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """End after the step it is in."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self._step():
                self._stop.wait(self._every_s)


def queue_of(app: App, metrics: Metrics | None = None) -> BatchQueue:
    """Return the queue in front of the models of a process: one for all tasks of its app, as urgent as they declare."""
    if metrics is None:
        return BatchQueue(levels_of(app))
    queue = BatchQueue(levels_of(app), told=metrics.batch, held=metrics.held)
    metrics.ask(waiting=lambda: queue.lengths)
    return queue


@dataclass(frozen=True)
class Asked:
    """A request that waits: which models were asked, and what they will say."""

    served: Served
    answer: Future[Any]


class Following:
    """The models of each task, as the registry says; loaded in a thread, so no batch waits for them.

    Args:
        app: whose tasks.
        registry: which models serve; None lets rules decide alone.
        on_change: told of a task and what serves it, at the start and whenever it changes.
        queue: in front of the models; one of its own, if not given.
        gpu: whether a GPU computes networks: "never", "prefer" or "require".

    Raises:
        RuntimeRefusedError: a GPU is required, and none can be used.

    Attributes:
        models: task -> what serves it.
        queue: where all that they compute waits for its turn.
    """

    def __init__(
        self,
        app: App,
        registry: Registry | None,
        on_change: Callable[[str, Served], None] | None = None,
        gpu: Gpu = "never",
        queue: BatchQueue | None = None,
    ) -> None:
        self._app = app
        self.queue = queue or queue_of(app)
        self._on_change = on_change or (lambda task, served: None)
        self.models: dict[str, ServedModels] = {}
        self._failed: dict[str, str] = {}
        self._again = Again("models", self._step, REFRESH_EVERY_S)
        for task in app.tasks:
            if registry is None or (task.model is None and task.learner is None):
                continue
            plan = app.plans[task.on.name]
            opening = partial(timed_scorer_of, task, plan, time.perf_counter, gpu=gpu)
            self.models[task.name] = ServedModels(registry, task.name, opening)
            self._on_change(task.name, self.models[task.name].start())
            if registry.generation(task.name) == 0:  # nothing was ever promoted: that is no problem
                self.models[task.name].problem = None

    def served(self, task: str) -> Served:
        """Return what decides the next batch of a task."""
        return replace(self.models[task].current, queue=self.queue) if task in self.models else Served()

    def submit(self, task: str, rows: Any, within_s: float = 0.0) -> Asked:
        """Ask what the models that serve a task now say of rows; see `pipeline.kinds.submit`. Any thread may.

        Raises:
            ValueError: there is no such task, or no model serves it.
        """
        served = self.served(task)
        return Asked(served, submit(self._app.task(task), served, rows, within_s))

    @property
    def problems(self) -> list[str]:
        """What is wrong, in words."""
        return [*self._failed.values(), *(each.problem for each in self.models.values() if each.problem)]

    def start(self) -> None:
        """Begin to follow."""
        if self.models:
            self._again.start()

    def stop(self) -> None:
        """Follow no longer, and take no more requests."""
        self._again.stop()
        self.queue.close()

    def _step(self) -> bool:
        for name, models in self.models.items():
            try:
                if models.refresh(time.monotonic_ns() // 1_000_000):
                    self._on_change(name, models.current)
                self._failed.pop(name, None)
            except Exception as error:  # a registry that cannot be reached changes nothing about what serves
                self._failed[name] = f"the registry cannot be asked what serves {name!r}: {error}"
        return False


class Learning:
    """The learners, in a thread beside the workers; a failure ends learning, never deciding.

    One that cannot reach the log or the schema registry tries again.

    Args:
        learners: task -> its learner.
    """

    def __init__(self, learners: dict[str, LearnerLoop]) -> None:
        self._learners, self._failed = learners, dict[str, str]()
        self._again = Again("learner", self._step, LEARNER_EVERY_S)

    @property
    def problems(self) -> list[str]:
        """What is wrong, in words."""
        return list(self._failed.values())

    @property
    def learned(self) -> dict[str, Learned]:
        """How the learners do, per task."""
        return {name: learner.status for name, learner in list(self._learners.items())}

    def start(self) -> None:
        """Begin to learn."""
        if self._learners:
            self._again.start()

    def stop(self) -> None:
        """Learn no longer."""
        self._again.stop()

    def _step(self) -> bool:
        is_busy = False
        for name, learner in list(self._learners.items()):
            try:
                is_busy = learner.step(now_ms()) >= LEARNER_ROWS_BUSY or is_busy
                self._failed.pop(name, None)
            except (LogError, RegistryAwayError) as error:  # what was not learned yet, is read again
                self._failed[name] = f"the learner of {name!r} waits: {error}"
            except Exception as error:
                self._failed[name] = f"the learner of {name!r} stopped: {error}"
                del self._learners[name]
        return is_busy


@contextmanager
def quick_to_answer() -> Iterator[None]:
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
