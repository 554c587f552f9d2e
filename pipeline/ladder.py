"""Which rung decides a batch: the best that is predicted to be in time, with what keeps the choice from flapping.

A task may declare how old its events may be when they are decided, from append to decision. The ladder is the large
network, the small one that learned from it, then rules alone. Letters: n rows of a batch.

    needed = age of the oldest event + seconds that the rung takes for n rows + seconds until the commit is done

A rung fits if needed is within the budget; the best that fits decides. Where none does, the last one: what cannot be in
time shall at least not hold up what comes after it. Down it goes at once. Up again only to a rung that would have
needed at most half of the budget in every batch for a while, so not before the backlog is gone. That while doubles with
each ascent that soon ends in a fall, as when events come faster than the large network can ever decide them.

Nothing here reads a clock, and none of it is state that a restart needs: a commit's manifest names its rung.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from models.rung_cost import RungCost

COMFORT = 0.5  # of the budget: what a better rung may need before it is taken again
CALM_BUDGETS, CALM_MS_MIN, CALM_MS_MAX = 4, 100.0, 60_000.0  # how long it must have needed no more
RELAPSE_CALMS = 10  # a fall so many calm times after an ascent, or earlier, makes the next one wait longer
FOLLOW = 0.2  # weight of the newest batch in what a rung costs
SURPRISE_MAX = 10.0  # times as long as predicted, that one batch may count as: a pause is no cost
FORGET_HALF_MS = 10_000.0  # what an idle rung was slower than usual by is forgotten by half


@dataclass
class _Cost:
    """What a rung costs: `base`, times a factor that follows what batches really took."""

    base: RungCost | None
    told: RungCost | None = None  # when it was loaded; other models under the same name begin anew
    factor: float = 1.0
    at_ms: float = 0.0

    def predicted_s(self, rows: int, now_ms: float) -> float:
        """Return seconds for n rows; 0 of a rung that nobody has timed yet: trying it is how to know."""
        return 0.0 if self.base is None else self._factor(now_ms) * self.base.seconds(rows)

    def took(self, rows: int, seconds: float, now_ms: float) -> None:
        if self.base is None:
            self.base = RungCost(0.0, seconds / rows)
        expected = max(self.base.seconds(rows), 1e-9)
        factor = self._factor(now_ms)
        self.factor = factor + FOLLOW * (min(seconds / expected, SURPRISE_MAX) - factor)
        self.at_ms = now_ms

    def _factor(self, now_ms: float) -> float:
        if self.factor <= 1.0:
            return self.factor
        return 1.0 + (self.factor - 1.0) * 0.5 ** (max(now_ms - self.at_ms, 0.0) / FORGET_HALF_MS)


@dataclass
class Ladder:
    """Chooses the rung of each batch of one task. Time is an argument, in milliseconds of one clock.

    Attributes:
        budget_ms: how old an event may be when its decision is committed.
        rung: what decided the last batch; "" before the first.
    """

    budget_ms: float
    rung: str = ""
    _costs: dict[str, _Cost] = field(default_factory=dict)
    _tight_ms: dict[str, float] = field(default_factory=dict)  # rung -> when it last needed more than is comfortable
    _rest_s: float = 0.0  # from the decision to the end of the commit
    _climbed_ms: float = float("-inf")
    _calm_ms: float = 0.0

    def choose(self, rungs: Sequence[tuple[str, RungCost | None]], rows: int, oldest_ms: float, now_ms: float) -> int:
        """Return which rung decides the next batch.

        Args:
            rungs: names, the best first, each with what it was timed to cost when it was loaded; at least one.
            rows: n.
            oldest_ms: when the log took the batch's oldest event.
            now_ms: when the choice is made.
        """
        names = [name for name, _ in rungs]
        for name, base in rungs:
            known = self._costs.get(name)
            if known is None or known.told != base:
                self._costs[name] = _Cost(base, base)
        needed = [self.needed_ms(name, rows, oldest_ms, now_ms) for name in names]
        for name, its in zip(names, needed, strict=True):
            if its > COMFORT * self.budget_ms:
                self._tight_ms[name] = now_ms
        current = names.index(self.rung) if self.rung in names else 0
        chosen = len(names) - 1
        for place, name in enumerate(names):
            if self._is_calm(name, now_ms) if place < current else needed[place] <= self.budget_ms:
                chosen = place
                break
        self._note(chosen - current, now_ms)
        self.rung = names[chosen]
        return chosen

    def needed_ms(self, name: str, rows: int, oldest_ms: float, now_ms: float) -> float:
        """Return how old the oldest event will be when n rows are decided by a rung and committed."""
        cost = self._costs[name].predicted_s(rows, now_ms) if name in self._costs else 0.0
        return max(now_ms - oldest_ms, 0.0) + 1000.0 * (cost + self._rest_s)

    def took(self, name: str, rows: int, seconds: float, rest_s: float, now_ms: float) -> None:
        """Learn what a batch took: to decide n rows by a rung, and from then until it was committed."""
        if rows > 0:
            self._costs.setdefault(name, _Cost(None)).took(rows, seconds, now_ms)
            counted_s = min(rest_s, SURPRISE_MAX * self._rest_s) if self._rest_s else rest_s
            self._rest_s += FOLLOW * (counted_s - self._rest_s)

    def _is_calm(self, name: str, now_ms: float) -> bool:
        since = self._tight_ms.get(name)
        return since is None or now_ms - since >= max(self._calm_ms, self._calm_least_ms)

    @property
    def _calm_least_ms(self) -> float:
        return max(CALM_BUDGETS * self.budget_ms, CALM_MS_MIN)

    def _note(self, steps: int, now_ms: float) -> None:
        """Remember an ascent; let the next one wait longer if this one did not last."""
        if steps < 0:
            self._climbed_ms = now_ms
        elif steps > 0:
            calm_ms = max(self._calm_ms, self._calm_least_ms)
            relapsed = now_ms - self._climbed_ms <= RELAPSE_CALMS * calm_ms
            self._calm_ms = min(2 * calm_ms, CALM_MS_MAX) if relapsed else 0.0
