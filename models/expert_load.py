"""How evenly experts are visited: counted while a network serves, told in three figures.

Letters: e experts, k that a token chooses, t tokens of an event in a layer.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
DEAD_SHARE = 0.01  # of the mean load: an expert below it is dead
VISITS_MIN = 100  # per expert of a layer, in the mean: with fewer, one without a visit says nothing
BATCHES_TOGETHER = 64  # counted at once
RECENT_EVENTS = 8_192


def entropy(visits: Int64s) -> float:
    """Return the entropy of (e,) visits over that of an even load: 1 if all are visited alike, 0 if only one is.

    >>> entropy(np.array([5, 5, 5, 5])), entropy(np.array([9, 0, 0, 0]))
    (1.0, 0.0)
    """
    share = visits[visits > 0] / max(int(visits.sum()), 1)
    return float(abs((share * np.log(share)).sum()) / np.log(visits.size)) if visits.size > 1 else 1.0


def overflow(visits: Int64s) -> float:
    """Return how far the most visited expert is above the mean: "MaxVio".

    Source: Wang et al. 2024 (arXiv:2408.15664), section 4.1.

    >>> overflow(np.array([30, 10, 0, 0]))
    2.0
    """
    return float(visits.max()) / max(float(visits.mean()), 1e-12) - 1


def dead(visits: Int64s) -> int:
    """Count the experts below 1 % of the mean load.

    >>> dead(np.array([30, 10, 0, 0]))
    2
    """
    return int((visits < DEAD_SHARE * max(float(visits.mean()), 1e-12)).sum())


def is_enough(visits: Int64s) -> bool:
    """Whether (e,) visits are so many that their figures mean something."""
    return int(visits.sum()) >= VISITS_MIN * visits.size


def load_for(notes: Mapping[str, str], outputs: Sequence[str]) -> tuple[ExpertLoad | None, list[str]]:
    """Return what counts the visits of a network, and the outputs that tell them; (None, []) if it does not.

    Args:
        notes: what its file says of itself.
        outputs: what it can be asked for.
    """
    chosen = [name for name in outputs if name.startswith("chosen_")]
    if not chosen:
        return None, []
    return ExpertLoad(len(chosen), int(json.loads(notes["pelton.sizes"])["experts"])), chosen


class ExpertLoad:
    """Counts the visits of served events to each expert; any thread may add and look.

    Adding only keeps what was chosen: it is counted when there is enough of it, or when somebody looks, so that a batch
    does not wait for it.
    """

    def __init__(self, layers: int, experts: int) -> None:
        self._experts, self._lock = experts, threading.Lock()
        self._kept: deque[tuple[Sequence[Int64s], int]] = deque()  # any thread may append, whoever has the lock takes
        self._total = np.zeros((layers, experts), np.int64)
        self._newer, self._older = self._total.copy(), self._total.copy()
        self._newer_events = 0

    def add(self, chosen: Sequence[Int64s], events: int, rows: int) -> None:
        """Add a batch.

        Args:
            chosen: per layer (rows * t, k), the experts of each token, row by row.
            events: how many of the rows are events; those behind them are padding.
            rows: of the batch.
        """
        self.add_visits([each[: events * (len(each) // rows)] for each in chosen], events)

    def add_visits(self, visits: Sequence[Int64s], events: int) -> None:
        """Add the visits of some events: per layer (tokens, k), the experts of each token that is one."""
        self._kept.append((visits, events))
        if len(self._kept) >= BATCHES_TOGETHER:
            with self._lock:
                self._count()

    def visits(self) -> Int64s:
        """Return the (layers, e) visits of all events so far."""
        with self._lock:
            self._count()
            return self._total.copy()

    def recent(self) -> Int64s:
        """Return the (layers, e) visits of the newest events: 8,192 or more, twice as many at most or a little more."""
        with self._lock:
            self._count()
            return self._newer + self._older

    def _count(self) -> None:
        batches = [self._kept.popleft() for _ in range(len(self._kept))]
        if not batches:
            return
        for layer in range(len(self._total)):
            ids = np.concatenate([visits[layer] for visits, _ in batches])
            found = np.bincount(ids.ravel(), minlength=self._experts)
            self._total[layer] += found
            self._newer[layer] += found
        self._newer_events += sum(events for _, events in batches)
        if self._newer_events >= RECENT_EVENTS:
            self._older, self._newer, self._newer_events = self._newer, np.zeros_like(self._newer), 0
