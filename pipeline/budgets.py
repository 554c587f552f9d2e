"""The tasks of a worker that have a budget: before each batch a rung is chosen, then noted what it took."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.app import AnyTask
from pipeline.decisions import Served
from pipeline.ladder import Ladder

_log = logging.getLogger("pelton.rungs")


class Budgets:
    """Lets the tasks of one worker fall back when their budget is gone; those without one never do.

    Args:
        tasks: of the worker.
        place: of the worker, for the log: which partition.
        clock_ms: milliseconds since the epoch, by the clock that appends are told in.
        timer_s: seconds of a clock that never goes back.
    """

    def __init__(
        self, tasks: Iterable[AnyTask], place: str, clock_ms: Callable[[], int], timer_s: Callable[[], float]
    ) -> None:
        self.ladders = {task.name: Ladder(task.budget_ms) for task in tasks if task.budget_ms is not None}
        self._place, self._clock_ms, self._timer_s = place, clock_ms, timer_s
        self._took: dict[str, tuple[str, float, float]] = {}  # task -> rung, seconds of the decision, when it ended

    def pick(self, task: str, served: Served, append_ms: NDArray[np.int64] | None) -> Served:
        """Return what decides a batch: the models that serve, or what they fall back to.

        Args:
            task: whose batch it is.
            served: the models that serve.
            append_ms: (events,) when the log took them; without any, or where nobody knows, nothing is changed.
        """
        ladder = self.ladders.get(task)
        if ladder is None or append_ms is None or not append_ms.size:
            return served
        was, rungs, now_ms = ladder.rung, served.rungs(), self._clock_ms()
        oldest_ms, costs = int(append_ms.min()), [(each.rung, each.cost) for each in rungs]
        chosen = rungs[ladder.choose(costs, append_ms.size, oldest_ms, now_ms)]
        if was and was != chosen.rung:
            _log.warning(
                "%s, %s: %s decides instead of %s; %d events, the oldest %d ms old, budget %g ms",
                task, self._place, chosen.rung, was, append_ms.size, now_ms - oldest_ms, ladder.budget_ms,
            )  # fmt: skip
        return chosen

    def decide(self, task: str, served: Served, decide: Callable[[], pa.RecordBatch]) -> pa.RecordBatch:
        """Return a batch's decisions; what they took is remembered until the commit is done."""
        if task not in self.ladders:
            return decide()
        began_s = self._timer_s()
        rows = decide()
        ended_s = self._timer_s()
        self._took[task] = served.rung, ended_s - began_s, ended_s
        return rows

    def committed(self, rows: int) -> None:
        """Take in what a commit took, of that many events."""
        if not self._took:
            return
        now_s, now_ms = self._timer_s(), self._clock_ms()
        for task, (rung, seconds, ended_s) in self._took.items():
            self.ladders[task].took(rung, rows, seconds, now_s - ended_s, now_ms)
        self._took.clear()
