"""One queue in front of the models of a process: whoever comes, from streams or with requests, waits here for a turn.

The rules are those of `models.waiting`. There are no threads of its own for streams: whoever waits for results computes
buckets meanwhile, his own or more urgent ones, so an idle machine hands nothing from thread to thread. ONNX Runtime
lets go of the interpreter, so buckets of several threads are computed at once.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np

from models.waiting import Bucket, Item, Waiting

Rows = Sequence[Any]  # or an array whose first axis is rows
Result = TypeVar("Result")
Told = Callable[[str, int, list[float]], None]


class BatchQueue:
    """Computes rows of all tasks in batches, the most urgent first. Any thread may call.

    A row's result is the same however batches were cut, as far as its model promises that (1e-5 of a probability). One
    that cannot be computed fails whoever sent it, and nobody else who was in the same batch.

    Args:
        levels: task -> how urgent it is, the higher the more.
        threads: batches computed at once; as many as cores, if not given.
        rows_max: of a task that may wait; whoever brings more is held until there is room.
        timer_s: seconds of a clock that never goes back.
        told: called after each batch with its task, how many rows it had, and how long each caller's had waited.
        held: called with the task and the seconds that a caller was held because its lane was full.
    """

    def __init__(
        self,
        levels: Mapping[str, int],
        threads: int | None = None,
        rows_max: int = 16_384,
        timer_s: Callable[[], float] = time.monotonic,
        told: Told | None = None,
        held: Callable[[str, float], None] | None = None,
    ) -> None:
        self._waiting = Waiting(levels, threads or _cores(), rows_max)
        self._levels, self._timer_s, self._told, self._held = dict(levels), timer_s, told, held
        self._changed = threading.Condition()
        self._work: dict[Item, _Work] = {}
        self._server: threading.Thread | None = None
        self._is_closed = False

    def run(self, task: str, method: Callable[..., Result], rows: Rows, *more: Any) -> Result:
        """Return `method(rows, *more)`, computed in batches, at once.

        Args:
            method: of the task's scorer: takes n rows, returns n results: a list, an array or a dataclass of arrays.
            rows: none are computed without waiting.
            more: arguments that it takes besides; rows of calls that differ in them share no batch.

        Raises:
            Exception: what the method raised for these rows.
        """
        if not len(rows):
            return method(rows, *more)
        work = self._put(task, method, rows, more, None)
        self._help(self._levels[task], lambda: work.future.done())
        return work.future.result()

    def submit(
        self, task: str, method: Callable[..., Result], rows: Rows, *more: Any, within_s: float = 0.0
    ) -> Future[Result]:
        """Promise `method(rows, *more)`, as `run` does, for one who does not wait: a request.

        Args:
            within_s: how long the answer may take: until shortly before, rows may wait for others to share a batch.

        Raises:
            RuntimeError: the queue is closed.
        """
        if not len(rows):
            done: Future[Result] = Future()
            done.set_result(method(rows, *more))
            return done
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the queue of the models is closed: its process ends")
            if self._server is None:
                self._server = threading.Thread(target=self._serve, name="requests", daemon=True)
                self._server.start()
        return self._put(task, method, rows, more, within_s).future

    @contextmanager
    def ahead(self, level: int) -> Iterator[None]:
        """Let no batch of a lower level begin until the block ends: whoever is in it has something urgent to do."""
        with self._changed:
            self._waiting.claim(level)
        try:
            yield
        finally:
            with self._changed:
                self._waiting.release(level)
                self._changed.notify_all()

    @property
    def lengths(self) -> dict[str, int]:
        """Task -> rows that wait now."""
        with self._changed:
            return {name: lane.rows for name, lane in self._waiting.lanes.items()}

    def close(self) -> None:
        """Take no more requests; return when those that wait are answered."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._server is not None:
            self._server.join()

    def _put(
        self, task: str, method: Callable[..., Any], rows: Rows, more: tuple[Any, ...], within_s: float | None
    ) -> _Work:
        work = _Work(method, rows, more)
        with self._changed:
            began_s = now_s = self._timer_s()
            if not self._waiting.has_room(task, len(rows)):
                self._changed.wait_for(lambda: self._waiting.has_room(task, len(rows)))
                now_s = self._timer_s()
            item = self._waiting.add(task, (method, more), method.__name__, len(rows), now_s + (within_s or 0.0), now_s)
            self._work[item] = work
            self._changed.notify_all()
        if self._held is not None and now_s > began_s:
            self._held(task, now_s - began_s)
        return work

    def _serve(self) -> None:
        """Compute what requests wait for, until the queue is closed and nothing waits."""
        self._help(0, lambda: self._is_closed and not self._work)

    def _help(self, level_min: int, is_done: Callable[[], bool]) -> None:
        """Compute buckets of a level or above until something is done."""
        while True:
            with self._changed:
                while not is_done():
                    now_s = self._timer_s()
                    bucket = self._waiting.next(now_s, level_min)
                    if bucket is not None:
                        break
                    again_s = self._waiting.look_again_s(now_s)
                    self._changed.wait(None if again_s is None else max(again_s - now_s, 0.0))
                else:
                    return
            self._compute(bucket)

    def _compute(self, bucket: Bucket) -> None:
        began_s = self._timer_s()
        works = [self._work[each.item] for each in bucket.slices]
        parts = [work.rows[each.first : each.end] for work, each in zip(works, bucket.slices, strict=True)]
        outcomes = _computed(works[0], parts)
        ended_s = self._timer_s()
        with self._changed:
            for each, work, outcome in zip(bucket.slices, works, outcomes, strict=True):
                work.parts[each.first] = outcome
            complete = [(item, self._work.pop(item)) for item in self._waiting.ended(bucket, ended_s - began_s)]
            for _, work in complete:
                work.finish()
            self._changed.notify_all()
        if self._told is not None:
            first = [each.item for each in bucket.slices if each.first == 0]
            self._told(bucket.lane.name, bucket.rows, [began_s - item.since_s for item in first])


class _Work:
    """What is to be computed for one caller, and the parts that are there."""

    def __init__(self, method: Callable[..., Any], rows: Rows, more: tuple[Any, ...]) -> None:
        self.method, self.rows, self.more = method, rows, more
        self.parts: dict[int, Any] = {}  # by the first row
        self.future: Future[Any] = Future()

    def finish(self) -> None:
        parts = [self.parts[first] for first in sorted(self.parts)]
        errors = [part for part in parts if isinstance(part, Exception)]
        if errors:
            self.future.set_exception(errors[0])
        else:
            self.future.set_result(joined(parts))


def _computed(one: _Work, parts: list[Rows]) -> list[Any]:
    """Compute parts in one batch; return each one's results, or the exception that it alone made."""
    try:
        results = one.method(joined(parts), *one.more)
    except Exception as error:
        if len(parts) == 1:
            return [error]
        return [_computed(one, [part])[0] for part in parts]
    found, first = [], 0
    for part in parts:
        found.append(part_of(results, first, first + len(part)))
        first += len(part)
    return found


def joined(parts: list[Any]) -> Any:
    """Join rows or results: arrays, lists, or dataclasses of arrays, whose other fields are those of the first."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    if isinstance(first, np.ndarray):
        return np.concatenate(parts)
    if is_dataclass(first) and not isinstance(first, type):
        arrays = [each.name for each in fields(first) if isinstance(getattr(first, each.name), np.ndarray)]
        return replace(first, **{name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays})
    return [each for part in parts for each in part]


def part_of(results: Any, first: int, end: int) -> Any:
    """Return the results of rows from `first` to before `end`."""
    if is_dataclass(results) and not isinstance(results, type):
        arrays = [each.name for each in fields(results) if isinstance(getattr(results, each.name), np.ndarray)]
        return replace(results, **{name: getattr(results, name)[first:end] for name in arrays})
    return results[first:end]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
