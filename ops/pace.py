"""Replaying at the speed of the events' own clock, or a multiple of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from connectors.files import Block
from connectors.records import Chunk
from pipeline.replay import Blocks

BLOCK_S = 0.1  # events of about so much of the waiter's time go together
BLOCK_ROWS_MAX = 4096


class Pace:
    """Waits until events are due.

    Args:
        speed: seconds of event time in one second.
        clock: seconds that never go back.
        sleep: waits for seconds.

    Attributes:
        rows: how many events should go together.
    """

    def __init__(
        self, speed: float, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._speed, self._clock, self._sleep = speed, clock, sleep
        self._first_ms: int | None = None
        self._start_s = 0.0
        self._waited_for = 0
        self.rows = 1

    def wait(self, times_ms: NDArray[np.int64]) -> None:
        """Wait until the newest of some events is due; late ones are due at once."""
        newest_ms = int(times_ms.max())
        if self._first_ms is None:
            self._first_ms, self._start_s = int(times_ms.min()), self._clock()
        self._waited_for += times_ms.size
        due_s = (newest_ms - self._first_ms) / 1000.0 / self._speed
        ahead_s = self._start_s + due_s - self._clock()
        if due_s > 0:
            self.rows = min(max(int(self._waited_for / due_s * BLOCK_S), 1), BLOCK_ROWS_MAX)
        if ahead_s > 0:
            self._sleep(ahead_s)


class PacedInput:
    """A FileInput in blocks that are small enough to be let out in time."""

    def __init__(self, source: Blocks, pace: Pace) -> None:
        self._source, self._pace = source, pace

    def blocks(self) -> Iterator[Block]:
        """Cut the file's blocks."""
        for block in self._source.blocks():
            at = 0
            while at < len(block):
                rows = self._pace.rows
                part = block.content.slice(at, rows)
                yield replace(block, first_offset=block.first_offset + at, content=part)
                at += rows

    def decode_block(self, block: Block) -> Chunk:
        """Decode a block."""
        return self._source.decode_block(block)
