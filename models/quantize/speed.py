"""How fast are several networks, on one thread, side by side?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.moe_runtime import OnnxMoE

Float64s = NDArray[np.float64]
BATCHES = (1, 8, 64)
ROUNDS = 40


@dataclass(frozen=True)
class Speed:
    """Medians over rounds in which all networks took turns.

    Attributes:
        ms: batch -> milliseconds for it.
        times: batch -> how many times as fast as the reference, of the same round.
    """

    ms: dict[int, float]
    times: dict[int, float]

    def rows_per_s(self, batch: int) -> float:
        """Return how many rows one thread scores in a second, in batches of this size."""
        return batch / self.ms[batch] * 1000

    @property
    def overall(self) -> float:
        """How many times as fast as the reference, geometric mean over the batch sizes."""
        return float(np.exp(np.mean(np.log(list(self.times.values())))))


def measure_speed(
    networks: Mapping[str, OnnxMoE],
    rows: Float64s,
    reference: str,
    rounds: int = ROUNDS,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Speed]:
    """Time networks in turns, each after a run that is not timed, which brings its weights back into the caches.

    Rows are repeated if there are fewer than in the largest batch.

    Args:
        networks: by name, warmed up, with buckets of `BATCHES`.
        rows: (n, columns), at least one.
        reference: name of the one to compare with.
        rounds: how often each is timed at each batch size.
        tell: told after each round.
    """
    took_ms = {name: np.empty((rounds, len(BATCHES))) for name in networks}
    for turn in range(rounds):
        for column, batch in enumerate(BATCHES):
            part = rows[(turn * batch + np.arange(batch)) % len(rows)]
            for name, network in networks.items():
                network.logits(part)
                started = time.perf_counter()
                network.logits(part)
                took_ms[name][turn, column] = (time.perf_counter() - started) * 1000
        tell(turn + 1, rounds)
    return {
        name: Speed(
            dict(zip(BATCHES, np.median(ms, axis=0).tolist(), strict=True)),
            dict(zip(BATCHES, np.median(took_ms[reference] / ms, axis=0).tolist(), strict=True)),
        )
        for name, ms in took_ms.items()
    }
