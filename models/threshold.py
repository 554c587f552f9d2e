"""From scores to decisions: a fixed threshold, or one that holds a share of alerts while the scores drift.

An *alert* is an event that is not allowed: reviewed or blocked. The threshold of a decision is the line where alerts
begin; `block_thresholds` is the line where blocking begins, at or above it.
"""

from dataclasses import dataclass
from math import exp, isfinite, log
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from kernels.threshold import follow_rate

Float64s = NDArray[np.float64]

ALLOW, REVIEW, BLOCK = 0, 1, 2
DECISIONS = ("allow", "review", "block")


class ThresholdError(ValueError):
    """A threshold is declared wrongly; the message says what to do."""


class ThresholdState(msgspec.Struct, frozen=True):
    """Where a moving threshold is: three numbers that a manifest keeps.

    Attributes:
        line: where alerts begin, in logits.
        block_line: where blocking begins, in logits.
        events: scores that have moved it.
    """

    line: float
    block_line: float
    events: int = 0


@dataclass(frozen=True)
class Banded:
    """Decisions of a batch of n events.

    Attributes:
        codes: (n,) int8, an index into DECISIONS.
        thresholds: (n,) where alerts began for this event, a probability.
        block_thresholds: (n,) where blocking began for it, a probability.
    """

    codes: NDArray[np.int8]
    thresholds: Float64s
    block_thresholds: Float64s


class Threshold(Protocol):
    """Turns scores into decisions, in log order; a function of the scores and the state alone."""

    def start(self) -> ThresholdState:
        """Return the state before the first event."""

    def decide(self, scores: Float64s, state: ThresholdState) -> tuple[Banded, ThresholdState]:
        """Decide (n,) scores in [0, 1]; return the decisions and the state after them, the same in any batches.

        A score that is not finite is reviewed, and moves nothing.
        """


@dataclass(frozen=True)
class Fixed:
    """Review from one probability on and block from another; `Fixed(block=0.9, review=0.9)` never reviews."""

    review: float = 0.5
    block: float = 0.85

    def __post_init__(self) -> None:
        """Refuse lines outside [0, 1] or the wrong way round."""
        if not 0 <= self.review <= self.block <= 1:
            raise ThresholdError(f"review is {self.review} and block is {self.block}; give 0 <= review <= block <= 1")

    def start(self) -> ThresholdState:
        """Return the state before the first event; it never changes."""
        return ThresholdState(line=_logit(self.review), block_line=_logit(self.block))

    def decide(self, scores: Float64s, state: ThresholdState) -> tuple[Banded, ThresholdState]:
        """Decide (n,) scores in [0, 1]; the state stays."""
        return _banded(scores, np.full(scores.shape, self.review), np.full(scores.shape, self.block)), state


@dataclass(frozen=True)
class Dynamic:
    """Hold a share of alerts under drift, starting from a base.

    Attributes:
        base: where the line starts, a probability.
        alert_rate: share of events that alert (review or block).
        window: events over which that share is to hold. Over one window it is off by about an eighth for each logit
            that the line has to move; a longer window makes the line calmer and slower.
        block_margin: blocking begins this many logits above the line (2 logits: odds 7.4 times higher).
        block_rate: share of events to block, instead of a margin; at most `alert_rate`.
        lowest: the line never sinks below this probability, however few alerts there are.
        highest: the line never rises above this probability, however many alerts there are.

    When it does not work: scores of few distinct values (a whole group is above or below the line), and an attack that
    raises true frauds for good; the share is held all the same, until `highest`.
    """

    base: float = 0.85
    alert_rate: float = 0.005
    window: int = 20_000
    block_margin: float = 2.0
    block_rate: float | None = None
    lowest: float = 0.01
    highest: float = 0.999

    def __post_init__(self) -> None:
        """Refuse what cannot be held."""
        if not 0 < self.alert_rate < 1:
            raise ThresholdError(f"alert_rate is {self.alert_rate}; it is a share of events, for example 0.005")
        if not 0 < self.lowest <= self.base <= self.highest < 1:
            raise ThresholdError(
                f"lowest is {self.lowest}, base is {self.base}, highest is {self.highest}; "
                "give 0 < lowest <= base <= highest < 1"
            )
        if self.window * self.alert_rate < 10:
            raise ThresholdError(
                f"window is {self.window} events with {self.window * self.alert_rate:g} alerts expected in it; "
                f"give at least {int(np.ceil(10 / self.alert_rate))} events"
            )
        if not (self.block_margin >= 0 and isfinite(self.block_margin)):
            raise ThresholdError(f"block_margin is {self.block_margin}; give logits, zero or more")
        if self.block_rate is not None and not 0 < self.block_rate <= self.alert_rate:
            raise ThresholdError(
                f"block_rate is {self.block_rate} and alert_rate is {self.alert_rate}; "
                "blocked events are a part of the alerts, give 0 < block_rate <= alert_rate"
            )

    def start(self) -> ThresholdState:
        """Return the state before the first event."""
        return ThresholdState(line=_logit(self.base), block_line=_logit(self.base) + self._margin())

    def decide(self, scores: Float64s, state: ThresholdState) -> tuple[Banded, ThresholdState]:
        """Decide (n,) scores in [0, 1] in log order; return the decisions and the state after them."""
        scores = np.ascontiguousarray(scores, np.float64)
        bounds = _logit(self.lowest), _logit(self.highest)
        lines, line, events = follow_rate(scores, state.line, state.events, self.alert_rate, self.window, *bounds)
        if self.block_rate is None:
            odds = exp(self.block_margin)
            blocks = lines * odds / (1.0 + lines * (odds - 1.0))
            block_line = line + self.block_margin
        else:
            blocks, block_line, _ = follow_rate(
                scores, state.block_line, state.events, self.block_rate, self.window, bounds[0], bounds[1] + 4.0
            )
            blocks = np.maximum(blocks, lines)
        return _banded(scores, lines, blocks), ThresholdState(line, block_line, events)

    def _margin(self) -> float:
        return self.block_margin if self.block_rate is None else 0.0


def _banded(scores: Float64s, lines: Float64s, blocks: Float64s) -> Banded:
    codes = (scores >= lines).astype(np.int8) + ((scores >= lines) & (scores >= blocks))
    codes[~np.isfinite(scores)] = REVIEW
    return Banded(codes.astype(np.int8), lines, blocks)


def _logit(probability: float) -> float:
    inside = min(max(probability, 1e-12), 1 - 1e-12)
    return log(inside / (1 - inside))
