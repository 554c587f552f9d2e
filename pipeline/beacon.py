"""What a stage says to later ones beside events: how far it is, and that it has nothing, so that they need not wait."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pyarrow as pa

from pipeline.carried import marker
from pipeline.stages import CARRIED, Output, Stage

IDLE_AFTER_MS = 1_000  # without anything to read, later stages are told
FLOOR_EVERY_MS = 1_000  # a partition that gets no events is told how far this stage is so often


class Beacon:
    """Markers of one stage and partition. They hurry later stages on; a worker that is dead says nothing.

    When they are written depends on a clock; what they do is a function of the log that they are in.

    Attributes:
        said_idle: whether the last thing said was that there is nothing; part of each commit's manifest.
    """

    def __init__(self, stage: Stage, partition: int, now_ms: int) -> None:
        self._partition = partition
        self._outputs = [output for output in stage.outputs if output.kind == CARRIED]
        self._partitions = stage.partitions
        self._told_ms = {output.topic: [now_ms] * stage.partitions for output in self._outputs}
        self._floors_ms = {output.topic: [-(2**62)] * stage.partitions for output in self._outputs}
        self._news_ms = now_ms
        self.said_idle = self._says_idle = self._was_idle = False

    def begin(self, is_idle: bool, now_ms: int) -> None:
        """Begin a commit; `is_idle` if there was nothing to read for a while."""
        self._was_idle, self._says_idle = self.said_idle, is_idle
        self.said_idle = is_idle and bool(self._outputs)
        self._news_ms = self._news_ms if is_idle else now_ms

    def is_due(self, now_ms: int) -> bool:
        """Whether a worker that has nothing to read should say so now."""
        return bool(self._outputs) and not self.said_idle and now_ms - self._news_ms >= IDLE_AFTER_MS

    def markers(
        self, output: Output, told: Collection[int], floor_ms: int, now_ms: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (partition, marker) for partitions of an output that get no events in a commit.

        Args:
            output: where events go.
            told: the partitions that get some; the floor goes along with them.
            floor_ms: of this stage.
        """
        if output.kind != CARRIED:
            return
        told_ms, floors_ms = self._told_ms[output.topic], self._floors_ms[output.topic]
        for partition in range(self._partitions):
            is_old = floor_ms > floors_ms[partition] and now_ms - told_ms[partition] >= FLOOR_EVERY_MS
            is_due = self._says_idle or self._was_idle or is_old  # after a pause, all hear that it is over
            if partition not in told and is_due:
                yield partition, marker(self._partition, floor_ms, self._says_idle)
            if partition in told or is_due:
                told_ms[partition], floors_ms[partition] = now_ms, floor_ms
