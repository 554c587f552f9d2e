"""Serve an exported network on event features: batches padded to a few sizes, warmed up before the first event."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.expert_load import load_for
from models.features import FeatureSpec
from models.runtimes import Gpu, RuntimeRefusedError, open_network

CPU_BUCKETS = (1, 2, *range(4, 68, 4))  # a row costs no less in larger batches, and padding costs what rows cost
GPU_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class OnnxMoE:
    """An exported network, ready to score.

    Scores do not depend on the batch an event comes in, beyond rounding (below 1e-5 of a logit). One instance may be
    used by several threads at once. On a CPU, one thread per instance and more processes is the fastest way.

    Args:
        path: the ONNX file; its hash is the registry's business.
        specs: columns of the matrix that will be given; must be those that the network was trained with, in order.
        threads: CPU threads for one batch.
        buckets: batch sizes that are computed, ascending; a batch is padded to the next one, and a larger one split.
            CPU_BUCKETS or GPU_BUCKETS, if not given.
        gpu: "never", "prefer" (CPU if there is none) or "require"; see `models.runtimes.open_network`.

    Attributes:
        provider: what really computes: "cpu", "cuda" or "triton".
        load: visits of the events that were counted; None if the file does not tell them, as older ones, or Triton.

    Raises:
        RuntimeRefusedError: no such file, not an exported network, other columns, GPU required but not usable, or both
            onnxruntime wheels installed.
    """

    provider: str

    def __init__(
        self,
        path: Path,
        specs: Sequence[FeatureSpec],
        threads: int = 1,
        buckets: Sequence[int] | None = None,
        gpu: Gpu = "never",
    ) -> None:
        if buckets is not None and (list(buckets) != sorted(set(buckets)) or not buckets or buckets[0] < 1):
            raise RuntimeRefusedError(f"buckets are {tuple(buckets)}; give ascending batch sizes above zero")
        self._specs = tuple(specs)
        self._runtime = open_network(Path(path), threads, gpu)
        self.provider = self._runtime.provider
        self._buckets = tuple(buckets or (CPU_BUCKETS if self.provider == "cpu" else GPU_BUCKETS))
        notes = self._runtime.notes
        _check_columns(Path(path), notes, self._specs)
        self.load, chosen = load_for(notes, self._runtime.outputs)
        self._all_outputs = ["logits", *chosen]
        for bucket in self._buckets:  # the first run of a size plans memory and packs weights
            self._run(np.zeros((bucket, len(self._specs))))

    def logits(self, features: NDArray[np.float64], counted: bool = False) -> NDArray[np.float64]:
        """Score (events, columns) float64, NaN is null; returns (events,) float64 logits.

        Args:
            features: of the events.
            counted: whether their visits are added to `load`: they are served, not only looked at.

        Raises:
            ValueError: wrong shape or an infinite value. Routers disagree about such values, so they never get there.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or features.shape[1] != len(self._specs):
            raise ValueError(f"features are {features.shape}; the model takes (events, {len(self._specs)})")
        if np.isinf(features).any():
            row, column = np.argwhere(np.isinf(features))[0]
            raise ValueError(
                f"feature {self._specs[column].name!r} of event {row} is {features[row, column]}; "
                "give NaN for a value that is not known"
            )
        scored = np.empty(len(features))
        largest = self._buckets[-1]
        for first in range(0, len(features), largest):
            part = features[first : first + largest]
            bucket = next(size for size in self._buckets if size >= len(part))
            padded = part if len(part) == bucket else np.zeros((bucket, part.shape[1]))
            padded[: len(part)] = part
            scored[first : first + largest] = self._run(padded, len(part) if counted else 0)[: len(part)]
        if not np.isfinite(scored).all():
            row = int(np.flatnonzero(~np.isfinite(scored))[0])
            raise ValueError(f"the model scored event {row} as {scored[row]}; its weights are broken, roll it back")
        return scored

    def _run(self, features: NDArray[np.float64], counted: int = 0) -> NDArray[np.float32]:
        """Score rows, of which the first `counted` are added to the load: the rest is padding."""
        given = {"features": np.ascontiguousarray(features)}
        if self.load is None or not counted:
            return self._runtime.run(["logits"], given)[0]
        logits, *chosen = self._runtime.run(self._all_outputs, given)
        self.load.add(chosen, counted, len(features))
        return logits


def _check_columns(path: Path, notes: Mapping[str, str], specs: tuple[FeatureSpec, ...]) -> None:
    if "pelton.columns" not in notes:
        raise RuntimeRefusedError(f"{path} does not say which columns it takes; export it with models.export")
    trained = json.loads(notes["pelton.columns"])
    given = [asdict(spec) for spec in specs]
    if len(trained) != len(given):
        raise RuntimeRefusedError(
            f"{path} takes {len(trained)} columns and is given {len(given)}; train it on this task"
        )
    for column, (theirs, ours) in enumerate(zip(trained, given, strict=True)):
        if theirs != ours:
            raise RuntimeRefusedError(
                f"column {column} of {path} is {theirs['name']!r} ({theirs['kind']}, step {theirs['step']}) and the "
                f"task gives {ours['name']!r} ({ours['kind']}, step {ours['step']}); train the model on this task"
            )
