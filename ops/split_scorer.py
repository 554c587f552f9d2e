"""One scorer on several cores: the parts of a large batch scored side by side. Sessions release the GIL."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from models.scorer import Scorer, Scores

ROWS_MIN = 256  # a smaller part is not worth a thread
Float64s = NDArray[np.float64]


class SplitScorer(Scorer):
    """A Scorer that shares its work among threads; scores are those of the other, beyond rounding.

    Args:
        scorer: that does the work.
        threads: how many at once; as many as cores, if not given.
    """

    def __init__(self, scorer: Scorer, threads: int | None = None) -> None:
        self.__dict__.update(scorer.__dict__)
        self._scorer = scorer.on_one_thread()
        self._threads = threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="score")

    def score(self, features: Float64s) -> Scores:
        """Score (n, f) features, NaN is null."""
        parts = self._parts(features)
        if len(parts) < 2:
            return self._scorer.score(features)
        scores = list(self._pool.map(self._scorer.score, parts))
        return Scores(
            np.concatenate([each.probability for each in scores]),
            np.concatenate([each.moe_logits for each in scores]),
            np.concatenate([each.ftrl_logits for each in scores]),
            scores[0].rung,
        )

    def reasons(self, features: Float64s) -> list[list[str]]:
        """Say in words what moved each of (n, f) events' scores most."""
        return [each for part in self._pool.map(self._scorer.reasons, self._parts(features, 8)) for each in part]

    def _parts(self, features: Float64s, rows_min: int = ROWS_MIN) -> list[Float64s]:
        """Cut a batch into parts of whole batches of the model, a few for each thread, so that none waits long."""
        rows = max(-(-len(features) // (4 * self._threads)), rows_min)
        return [features[first : first + rows] for first in range(0, len(features), rows)]
