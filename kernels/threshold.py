"""A line through a stream of scores that a given share of them reaches. Arrays in, arrays out."""

from math import exp, isfinite

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import njit

Float64s = NDArray[np.float64]

FIRST_STEPS = 16.0  # how much larger the first step is than the lasting one


@njit(
    "Tuple((float64, int64))"
    "(Array(float64, 1, 'C', True), float64, int64, float64, float64, float64, float64, float64, float64[::1])"
)  # the scores may be read-only
def _follow_rate(scores, line, events, rate, step, window, lowest, highest, lines):
    for i in range(scores.size):
        threshold = 1.0 / (1.0 + exp(-line))
        lines[i] = threshold
        if not isfinite(scores[i]):
            continue
        now = step * max(1.0, FIRST_STEPS * window / (window + FIRST_STEPS * FIRST_STEPS * events))
        line += now * ((1.0 - rate) if scores[i] >= threshold else -rate)
        line = min(max(line, lowest), highest)
        events += 1
    return line, events


def follow_rate(
    scores: Float64s, line: float, events: int, rate: float, window: int, lowest: float, highest: float
) -> tuple[Float64s, float, int]:
    """Move a line so that a share `rate` of the scores reaches it, one score after another.

    A score at or above the line pushes it up by step * (1 - rate), any other lets it sink by step * rate. So over any
    n events (share that reached it - rate) = (line after - line before) / (step * n), whatever the scores do, as long
    as no bound is hit. The step is 8 / (window * rate) logits: over one window, a share is off by an eighth of
    the logits that the line had to move. The first steps are up to 16 times larger.

    Args:
        scores: (n,) probabilities; a score that is not finite moves nothing.
        line: the line before the first of them, in logits.
        events: how many scores have moved it so far.
        rate: the share wanted, between 0 and 1.
        window: events over which the share is to hold, above zero.
        lowest: the line never sinks below this logit.
        highest: the line never rises above this logit.

    Returns:
        (n,) the threshold each score met, as a probability; then line and events after the last.

    Source: the update of adaptive conformal inference (Gibbs, Candès, NeurIPS 2021), here on the line itself, with a
    step that falls to a lasting one (Angelopoulos, Barber, Bates, ICML 2024).
    """
    step = 8.0 / (window * rate)
    lines = np.empty(scores.size)
    line, events = _follow_rate(
        scores, float(line), int(events), float(rate), step, float(window), float(lowest), float(highest), lines
    )
    return lines, line, events
