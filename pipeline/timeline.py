"""The merged order of a commit's inputs: heads by event time, then declared order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.admission import merge_heads
from pipeline.inputs import Judged

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Timeline:
    """The applied records of all inputs of a commit, in merged order.

    Attributes:
        names: the inputs, the decided stream first.
        source: (records,) which input each is of.
        times_ms: (records,) event times; a label's is when it became known.
        floors_ms: (records,) the oldest time of the decided stream that was not late by then.
    """

    names: tuple[str, ...]
    source: NDArray[np.int8]
    times_ms: Int64s
    floors_ms: Int64s

    def __len__(self) -> int:
        return int(self.times_ms.size)

    def rows_of(self, name: str) -> Int64s:
        """Return where the records of an input stand; each input keeps its order."""
        if name not in self.names:
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.source == self.names.index(name))


def merge(inputs: Sequence[tuple[str, Judged]], floor_before_ms: int) -> Timeline:
    """Merge inputs, the decided stream first.

    Args:
        inputs: name and records of each; labels that come from the events themselves are the last.
        floor_before_ms: the floor of the decided stream before this commit.
    """
    names = tuple(name for name, _ in inputs)
    parts = [part for _, part in inputs]
    main = parts[0]
    if len(parts) == 1:
        keep = main.applied
        return Timeline(names, np.zeros(int(keep.sum()), np.int8), main.times_ms[keep], main.floors_ms[keep])
    sizes = [part.times_ms.size for part in parts]
    times_ms = np.concatenate([part.times_ms for part in parts])
    floors_ms = np.full(times_ms.size, floor_before_ms)
    floors_ms[: sizes[0]] = main.floors_ms
    order = merged_order([part.times_ms for part in parts if part.before_rows is None])
    if parts[-1].before_rows is not None:
        own = np.flatnonzero(order < sizes[0])
        order = np.insert(order, own[parts[-1].before_rows], order.size + np.arange(sizes[-1]))
    floors_ms = np.maximum.accumulate(floors_ms[order])
    applied = np.concatenate([part.applied for part in parts])[order]
    source = np.repeat(np.arange(len(parts), dtype=np.int8), sizes)[order]
    return Timeline(names, source[applied], times_ms[order][applied], np.maximum(floors_ms, floor_before_ms)[applied])


def merged_order(times_ms: Sequence[Int64s]) -> Int64s:
    """Return (records,) in which order the records of several inputs, laid end to end, are taken."""
    sizes = [each.size for each in times_ms]
    order = np.empty(sum(sizes), np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    merge_heads(np.concatenate(times_ms).astype(np.int64), starts, np.zeros(len(sizes), np.int64), order)
    return order
