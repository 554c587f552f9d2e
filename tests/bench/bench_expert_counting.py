"""What does it cost to count which experts served events visit?

The shipped network on one thread, each batch scored in turns, counted and not, after a run that is not timed. A round
is as many batches as are counted at once, so that the counting is in it. Told is the median over rounds of what the
counted side takes more than the other one in the same round, and the middle half of the rounds. Both are one session:
two of one file differ by more, as their weights lie elsewhere.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle import read_bundle
from models.expert_load import BATCHES_TOGETHER
from models.moe_runtime import OnnxMoE
from models.scorer import MOE, read_specs
from tests.bench.measuring import REPOSITORY, machine, parser

Float64s = NDArray[np.float64]
ROUNDS = {1: 60, 8: 20, 64: 6}  # by batch


def shipped(folder: Path) -> tuple[OnnxMoE, Float64s]:
    """Return the shipped network, and rows: random ones, a fifth of each null."""
    bundle = read_bundle(REPOSITORY / "ops" / "demo" / "bundle")
    (folder / MOE).write_bytes(bundle.part(MOE))
    specs, chance = read_specs(bundle), np.random.default_rng(0)
    rows = np.exp(chance.normal(size=(512, len(specs))))
    rows[chance.random(rows.shape) < 0.2] = np.nan
    return OnnxMoE(folder / MOE, specs, buckets=tuple(ROUNDS)), rows


def a_round(network: OnnxMoE, rows: Float64s, batch: int) -> Float64s:
    """Return (not counted and counted, clock and processor) seconds of as many batches as are counted at once."""
    took = np.zeros((2, 2))
    for number in range(BATCHES_TOGETHER):
        first = number * batch % (len(rows) - batch + 1)
        part = rows[first : first + batch]
        for counted in (False, True) if number % 2 else (True, False):
            network.logits(part)  # brings the weights back into the caches
            before, before_cpu = time.perf_counter(), time.thread_time()
            network.logits(part, counted=counted)
            took[int(counted)] += time.perf_counter() - before, time.thread_time() - before_cpu
    return took


def measured(network: OnnxMoE, rows: Float64s, batch: int, rounds: int) -> dict[str, object]:
    """Return milliseconds of a batch that is not counted, and what counting takes more, in per cent."""
    took = np.stack([a_round(network, rows, batch) for _ in range(rounds)])  # (rounds, sides, clock and processor)
    told: dict[str, object] = {"ms": round(float(np.median(took[:, 0, 0])) / BATCHES_TOGETHER * 1000, 3)}
    more = (took[:, 1] / took[:, 0] - 1) * 100
    for column, kind in enumerate(("clock", "processor")):
        low, middle, high = np.quantile(more[:, column], [0.25, 0.5, 0.75]).round(2).tolist()
        told |= {f"{kind} %": middle, f"{kind} % middle half": [low, high]}
    return told


def main() -> None:
    """Compare, time in turns, print a line per batch size and all as JSON."""
    quick, found = parser(__doc__).parse_args().quick, {}
    with tempfile.TemporaryDirectory(prefix="pelton-") as folder:
        network, rows = shipped(Path(folder))
        np.testing.assert_array_equal(network.logits(rows, counted=True), network.logits(rows))
        assert network.load is not None, "the shipped network does not tell which experts it visits"
        visits = network.load.visits().sum(axis=1)  # of each layer: events * tokens * chosen
        assert visits.all(), visits
        assert (visits % len(rows) == 0).all(), visits
        for batch, rounds in ROUNDS.items():
            found[f"batch {batch}"] = measured(network, rows, batch, 6 if quick else rounds)
            print(f"batch {batch}: " + "  ".join(f"{name} {value}" for name, value in found[f"batch {batch}"].items()))
    print(json.dumps({"bench": "expert_counting", **found, **machine()}))


if __name__ == "__main__":
    main()
