"""The learner beside the server: it reads decisions and labels, learns, and offers snapshots that passed the gate.

Pure: what it does is a function of the decisions and labels in the order given. Reading logs and publishing snapshots
is the caller's part.
"""

from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from models.gate import GateLimits, Verdict, gate
from models.label_join import Joined, LabelJoin
from models.prequential import Prequential

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]


class Learner(Protocol):
    """A model that learns online; tests/contracts/test_learners.py says what must hold."""

    learned: int

    def predict(self, features: Float64s, moe_logits: Float64s | None = None) -> Float64s:
        """Score (n, f) features, with (n,) MoE logits or NaN where it did not run; return (n,) finite logits."""

    def learn(self, features: Float64s, labels: NDArray[np.generic], moe_logits: Float64s | None = None) -> Float64s:
        """Learn (n,) labels in [0, 1] (NaN: not known) in order; return the (n,) logits from before each."""

    def snapshot(self) -> bytes:
        """Return everything, so that equal learners give equal bytes."""

    @classmethod
    def restore(cls, snapshot: bytes) -> Self:
        """Return the learner that wrote this snapshot, to the bit."""

    def copy(self) -> Self:
        """Return an equal learner that learns on its own."""

    def is_finite(self) -> bool:
        """Tell whether every weight is finite."""


@dataclass(frozen=True)
class LearnerSettings:
    """How the learner beside the server works.

    Attributes:
        hold_back: one labelled event in so many is never learned, and judges snapshots instead.
        held_back_max: how many of them are kept, the newest.
        events_max: served events that may wait for their label.
        window: labelled events that live metrics look at.
        limits: what a snapshot may do.
    """

    hold_back: int = 10
    held_back_max: int = 5_000
    events_max: int = 100_000
    window: int = 10_000
    limits: GateLimits = field(default_factory=GateLimits)


class OnlineLearner:
    """Joins labels to what was served, learns most of them, and judges itself by the rest.

    Which events are held back is decided by their id alone, so a replay holds back the same.

    Attributes:
        model: what learns.
        live: metrics of the served scores, as labels come.
        progressive: metrics of the model's own predictions, each made before its label was learned.
    """

    def __init__(self, model: Learner, features: int, settings: LearnerSettings | None = None) -> None:
        """Go on with `model`; its state when it starts is what serves, until `publish`."""
        self.settings = settings = settings or LearnerSettings()
        self.model = model
        self.live = Prequential(settings.window)
        self.progressive = Prequential(settings.window)
        self._join = LabelJoin(features, settings.events_max)
        self._serving = model.copy() if model.learned else None
        self._held: list[Joined] = []
        self._held_count = 0

    @property
    def counts(self) -> dict[str, int]:
        """Return the labels' ledger: joined, waiting, unmatched, superseded, duplicate, invalid."""
        return dict(vars(self._join.counts))

    def serve(self, ids: Int64s, features: Float64s, moe_logits: Float64s, scores: Float64s) -> int:
        """Take decisions as served, in log order: (n,) id hashes, (n, f), (n,), (n,); return how many were learned."""
        return self._take(self._join.serve(ids, features, moe_logits, scores))

    def label(self, ids: Int64s, labels: Float64s) -> int:
        """Take (n,) labels by id hash, in log order; return how many were learned now."""
        return self._take(self._join.label(ids, labels))

    def knows(self, ids: Int64s) -> NDArray[np.bool_]:
        """Tell of (n,) id hashes which events were served and are remembered."""
        return self._join.knows(ids)

    def candidate(self) -> tuple[bytes, Verdict]:
        """Return a snapshot and whether it may serve; if it does, say so with `publish`."""
        held = self._held_back()
        verdict = gate(self.model, self._serving, held.features, held.labels, held.moe_logits, self.settings.limits)
        return self.model.snapshot(), verdict

    def publish(self) -> None:
        """Note that the model as it is now serves: the next candidate is compared with it."""
        self._serving = self.model.copy()

    def _take(self, joined: Joined) -> int:
        self.live.update(joined.scores, joined.labels)
        held = _spread(joined.ids) % np.uint64(self.settings.hold_back) == 0
        if held.any():
            self._hold(_rows(joined, held))
        learn = _rows(joined, ~held)
        logits = self.model.learn(learn.features, learn.labels, learn.moe_logits)
        self.progressive.update(logits, learn.labels)
        return len(learn.labels)

    def _hold(self, rows: Joined) -> None:
        self._held.append(rows)
        self._held_count += len(rows.labels)
        if self._held_count > 2 * self.settings.held_back_max or len(self._held) > 1000:
            self._held = [self._held_back()]
            self._held_count = len(self._held[0].labels)

    def _held_back(self) -> Joined:
        """Return the newest held-back events as one."""
        parts = [*self._held] or [self._join.label(np.empty(0, np.int64), np.empty(0))]
        newest = slice(-self.settings.held_back_max, None)
        return Joined(*(np.concatenate([getattr(part, name) for part in parts])[newest] for name in _COLUMNS))


_COLUMNS = ("ids", "features", "moe_logits", "scores", "labels")


def _rows(joined: Joined, which: NDArray[np.bool_]) -> Joined:
    return Joined(*(getattr(joined, name)[which] for name in _COLUMNS))


def _spread(ids: Int64s) -> NDArray[np.uint64]:
    """Mix the bits of ids, so that a share of them does not follow how they were numbered."""
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(32))
