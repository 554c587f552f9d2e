"""An online learner over history, as it would have served: it predicts an event with the labels known by then."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.learner import Learner
from pipeline.dataset import Dataset

Float64s = NDArray[np.float64]
HOUR_MS = 3_600_000


def serve_and_learn(
    learner: Learner, data: Dataset, moe_logits: Float64s, since_ms: int | None = None, every_ms: int = HOUR_MS
) -> Float64s:
    """Predict events in log order while learning their labels in the order in which they became known.

    Args:
        learner: predicts, and learns what became known; afterwards it has learned every label of `data`.
        data: events in log order; one without a label is predicted only.
        moe_logits: (events,) NaN where the MoE did not run.
        since_ms: labels known before then are taken as learned already; None learns all.
        every_ms: how often what was learned begins to serve, as with a learner that publishes snapshots.

    Returns:
        (events,) logits; each comes from labels known before the event's tick of `every_ms` began.
    """
    logits = np.full(len(data), np.nan)
    if not len(data):
        return logits
    ticks = np.maximum.accumulate(data.times_ms) // every_ms * every_ms
    starts = np.flatnonzero(np.concatenate([[True], np.diff(ticks) != 0]))
    labelled = np.flatnonzero(np.isfinite(data.labels) & (data.known_ms >= (since_ms if since_ms is not None else 0)))
    labelled = labelled[np.argsort(data.known_ms[labelled], kind="stable")]
    due = np.searchsorted(data.known_ms[labelled], ticks[starts], side="left")
    learned = 0
    for first, end, until in zip(starts, [*starts[1:], len(data)], due, strict=True):
        _learn(learner, data, moe_logits, labelled[learned:until])
        learned = max(learned, int(until))
        logits[first:end] = learner.predict(data.features[first:end], moe_logits[first:end])
    _learn(learner, data, moe_logits, labelled[learned:])
    return logits


def _learn(learner: Learner, data: Dataset, moe_logits: Float64s, rows: NDArray[np.int64]) -> None:
    if rows.size:
        learner.learn(data.features[rows], data.labels[rows], moe_logits[rows])
