"""Serve an exported network with ONNX Runtime: batches padded to a few sizes, warmed up before the first event."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.expert_load import ExpertLoad
from models.features import FeatureSpec

CPU_BUCKETS = (1, 2, *range(4, 68, 4))  # a row costs no less in larger batches, and padding costs what rows cost
GPU_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
Gpu = Literal["never", "prefer", "require"]


class RuntimeRefusedError(ValueError):
    """The model cannot be served here as asked."""


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
        gpu: "never", "prefer" (CPU if there is none) or "require".

    Attributes:
        provider: what really computes: "cpu" or "cuda".
        load: visits of the events that were counted; None if the file does not tell them, as older ones.

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
        if not Path(path).is_file():
            raise RuntimeRefusedError(f"there is no model file {path}; train one, or check the bundle")
        check_one_wheel()
        self._specs = tuple(specs)
        self._session, self.provider = open_session(Path(path), threads, gpu)
        self._buckets = tuple(buckets or (GPU_BUCKETS if self.provider == "cuda" else CPU_BUCKETS))
        notes = self._session.get_modelmeta().custom_metadata_map
        _check_columns(Path(path), notes, self._specs)
        told = [output.name for output in self._session.get_outputs()]
        chosen = [name for name in told if name.startswith("chosen_")]
        self._all_outputs = ["logits", *chosen]
        self.load = _load(notes, len(chosen)) if chosen else None
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
            return self._session.run(["logits"], given)[0]
        logits, *chosen = self._session.run(self._all_outputs, given)
        self.load.add(chosen, counted, len(features))
        return logits


def check_one_wheel() -> None:
    """Refuse to start with both onnxruntime wheels: they share an import name, and the last installed wins.

    Raises:
        RuntimeRefusedError: both are installed.
    """
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    if len(found) > 1:
        raise RuntimeRefusedError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; run "
            "`pip uninstall -y onnxruntime onnxruntime-gpu` and then `pip install onnxruntime-gpu`"
        )


def _installed(name: str) -> bool:
    from importlib import metadata  # late: it parses mail, which takes a while

    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def open_session(model: Path | bytes, threads: int, gpu: Gpu) -> tuple[Any, str]:
    """Open a model, a file or its bytes; return the session and what really computes, "cpu" or "cuda"."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning takes the other core away
    options.log_severity_level = 4
    providers = ["CPUExecutionProvider"]
    if gpu != "never":
        onnxruntime.set_default_logger_severity(4)  # a missing CUDA library is told once, by us
        providers.insert(0, "CUDAExecutionProvider")
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as problem:  # onnxruntime's exceptions share no base class of their own
        what = "this" if isinstance(model, bytes) else model
        raise RuntimeRefusedError(f"{what} is not a model that ONNX Runtime can load: {problem}") from None
    # the list of *available* providers names CUDA even where its libraries are missing; this one tells the truth
    provider = "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"
    if gpu == "require" and provider != "cuda":
        raise RuntimeRefusedError(
            "a GPU is required, and ONNX Runtime cannot use one here; install the driver, CUDA 13 and cuDNN 9 "
            "and onnxruntime-gpu, or ask for gpu='prefer'"
        )
    return session, provider


def _load(notes: dict[str, str], layers: int) -> ExpertLoad:
    return ExpertLoad(layers, int(json.loads(notes["pelton.sizes"])["experts"]))


def _check_columns(path: Path, notes: dict[str, str], specs: tuple[FeatureSpec, ...]) -> None:
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
