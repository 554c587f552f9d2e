"""Puts records into the log at the pace of their event times, as a producer of real payments would."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from connectors.log import Log

Int64s = NDArray[np.int64]
TICK_S = 0.002  # between two looks at the clock: at a thousand records a second, most are appended alone or in pairs
RECORDS_MAX = 512  # of one append, when the producer has fallen behind


@dataclass(frozen=True)
class Script:
    """Records of one topic, and when each is due.

    Attributes:
        topic: where they go.
        lines: the records.
        due_ms: (records,) event time at which each arrives, never decreasing.
    """

    topic: str
    lines: list[bytes]
    due_ms: Int64s


def read_script(topic: str, path: Path, time_field: str) -> Script:
    """Read JSON lines in arrival order; each is due at the largest time so far, one without a time with its neighbour.

    Raises:
        OSError: the file cannot be read.
        ValueError: no record has a time.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    pattern = re.compile(rb'"%s":\s*(\d{12,14})\b' % re.escape(time_field.encode()))
    due_ms = np.array([int(found[1]) if (found := pattern.search(line)) else 0 for line in lines], np.int64)
    if not due_ms.any():
        raise ValueError(f"{path} has no record with a time {time_field!r}; nothing says when to append them")
    due_ms[: np.flatnonzero(due_ms)[0]] = due_ms[due_ms > 0][0]
    return Script(topic, lines, np.maximum.accumulate(due_ms))


@dataclass
class Producer:
    """A thread that appends scripts; event time runs `speed` times as fast as the clock.

    Attributes:
        start_ms, end_ms: event time of the first and the last record of the first script; later ones of others (labels
            that come when the stream is over) are left out.
        appended: topic -> records so far.
        problem: why it stopped before its end, None if it did not.
    """

    log: Log
    scripts: list[Script]
    speed: float
    now_ms: Callable[[], int]
    appended: dict[str, int] = field(init=False)
    problem: Exception | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Nothing is appended before `start`."""
        self.start_ms, self.end_ms = int(self.scripts[0].due_ms[0]), int(self.scripts[0].due_ms[-1])
        self.appended = {script.topic: 0 for script in self.scripts}
        self._stop, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)

    def start(self) -> None:
        """Begin to append."""
        self._thread.start()

    def stop(self) -> None:
        """Append nothing more; returns when the thread has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def wait(self) -> None:
        """Return when everything is appended, it was stopped, or it failed."""
        self._done.wait()

    @property
    def is_done(self) -> bool:
        """Whether everything is appended, or it was stopped."""
        return self._done.is_set()

    def event_ms(self, elapsed_s: float) -> int:
        """Return the event time that belongs to a time since the start."""
        return min(self.start_ms + int(elapsed_s * 1000 * self.speed), self.end_ms)

    def _run(self) -> None:
        began_s = time.monotonic()
        try:
            while not self._stop.wait(TICK_S):
                event_ms = self.event_ms(time.monotonic() - began_s)
                self.append_until(event_ms)
                if event_ms >= self.end_ms:
                    return
        except Exception as error:  # shown by whoever watches; the decisions go on
            self.problem = error
        finally:
            self._done.set()

    def append_until(self, event_ms: int) -> Mapping[str, int]:
        """Append what is due at an event time; return topic -> records appended so far."""
        for script in self.scripts:
            due = int(np.searchsorted(script.due_ms, event_ms, side="right"))
            while (first := self.appended[script.topic]) < due and not self._stop.is_set():
                end = min(due, first + RECORDS_MAX)
                self.log.append(script.topic, 0, script.lines[first:end], self.now_ms())
                self.appended[script.topic] = end
        return self.appended
