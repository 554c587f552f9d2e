"""Join labels that come late to the features that were served. Bounded, in order, without a clock."""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.ftrl import LearnerError

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Joined:
    """Events whose label is known, in the order in which that happened.

    Attributes:
        ids: (n,) int64 hashes of event ids.
        features: (n, f) as served.
        moe_logits: (n,) as served, NaN where the MoE did not run.
        scores: (n,) as served.
        labels: (n,) 0.0 or 1.0.
    """

    ids: Int64s
    features: Float64s
    moe_logits: Float64s
    scores: Float64s
    labels: Float64s


@dataclass
class LabelCounts:
    """Labels in = joined + waiting + unmatched + superseded + duplicate + invalid."""

    joined: int = 0
    waiting: int = 0  # their event was not served yet, or is forgotten
    unmatched: int = 0  # waited until others took their place
    superseded: int = 0  # another label for an event that has one: the first was learned and stays
    duplicate: int = 0
    invalid: int = 0  # neither 0 nor 1


class LabelJoin:
    """Remembers the newest served events and the labels that came too early, at most so many of each.

    When it does not work: labels that take longer than `events_max` events. They count as waiting, then unmatched.
    """

    def __init__(self, features: int, events_max: int = 100_000, early_max: int = 10_000) -> None:
        """Remember `events_max` events of `features` columns (8 bytes a value) and `early_max` early labels."""
        if events_max < 1 or early_max < 1:
            raise LearnerError(f"events_max is {events_max} and early_max is {early_max}; both must be 1 or more")
        self.counts = LabelCounts()
        self._served = 0
        self._at: dict[int, int] = {}
        self._early: OrderedDict[int, float] = OrderedDict()
        self._early_max = early_max
        self._ids = np.zeros(events_max, np.int64)
        self._labels = np.full(events_max, np.nan)  # of the events remembered, NaN until known
        self._values = np.empty((events_max, features + 2))  # features, MoE logit, score

    def serve(self, ids: Int64s, features: Float64s, moe_logits: Float64s, scores: Float64s) -> Joined:
        """Remember served events; return those whose label was here. An id served twice keeps its first event."""
        size = len(self._ids)
        ready = []
        values = np.column_stack([features, moe_logits, scores])
        for row, id in enumerate(ids.tolist()):
            if id in self._at:
                continue
            place = self._served % size
            if self._served >= size:
                del self._at[int(self._ids[place])]
            self._ids[place], self._labels[place], self._values[place] = id, np.nan, values[row]
            self._at[id] = place
            self._served += 1
            label = self._early.pop(id, None)
            if label is not None:
                self._labels[place] = label
                self.counts.waiting -= 1
                ready.append((id, values[row], label))
        return self._joined(ready)

    def knows(self, ids: Int64s) -> NDArray[np.bool_]:
        """Tell of (n,) ids which events are remembered."""
        return np.array([id in self._at for id in ids.tolist()], np.bool_)

    def label(self, ids: Int64s, labels: Float64s) -> Joined:
        """Take labels; return the events that they belong to, for those that were served and had none."""
        ready = []
        for id, label in zip(ids.tolist(), labels.tolist(), strict=True):
            if label not in (0.0, 1.0):
                self.counts.invalid += 1
                continue
            place = self._at.get(id)
            if place is not None and np.isnan(self._labels[place]):
                self._labels[place] = label
                ready.append((id, self._values[place].copy(), label))
                continue
            known = self._early.get(id) if place is None else float(self._labels[place])
            if known is None:
                self._wait(id, label)
            elif known == label:
                self.counts.duplicate += 1
            else:
                self.counts.superseded += 1
        return self._joined(ready)

    def _wait(self, id: int, label: float) -> None:
        self._early[id] = label
        self.counts.waiting += 1
        if len(self._early) > self._early_max:
            self._early.popitem(last=False)
            self.counts.waiting -= 1
            self.counts.unmatched += 1

    def _joined(self, ready: list[tuple[int, Float64s, float]]) -> Joined:
        self.counts.joined += len(ready)
        values = np.array([row for _, row, _ in ready]).reshape(len(ready), self._values.shape[1])
        return Joined(
            ids=np.array([id for id, _, _ in ready], np.int64),
            features=np.ascontiguousarray(values[:, :-2]),
            moe_logits=np.ascontiguousarray(values[:, -2]),
            scores=np.ascontiguousarray(values[:, -1]),
            labels=np.array([label for _, _, label in ready], np.float64),
        )
