"""What computes an exported network: ONNX Runtime on a CPU or a GPU, or torch with our own kernels on a GPU.

All are asked in one way, and answer the same within 1e-5 (`tests/contracts/test_runtimes.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

Gpu = Literal["never", "prefer", "require"]
GPU_CHOICES: tuple[Gpu, ...] = ("never", "prefer", "require")


class RuntimeRefusedError(ValueError):
    """The model cannot be served here as asked."""


class Runtime(Protocol):
    """A network, open and ready. One instance may be used by several threads at once.

    Attributes:
        provider: what really computes: "cpu" or "cuda", both of ONNX Runtime, or "triton", torch with our kernels.
        notes: what the file says of itself, name -> JSON.
        outputs: what it can be asked for.
    """

    provider: str
    notes: Mapping[str, str]
    outputs: Sequence[str]

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs named, in that order, of inputs by name."""
        ...


class OnnxRuntime:
    """A session of ONNX Runtime; see `Runtime`."""

    def __init__(self, session: Any, provider: str) -> None:
        self._session, self.provider = session, provider
        self.notes: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
        self.outputs: Sequence[str] = [output.name for output in session.get_outputs()]

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs named; see `Runtime.run`."""
        found: list[NDArray[Any]] = self._session.run(list(outputs), dict(inputs))
        return found


def open_network(model: Path | bytes, threads: int = 1, gpu: Gpu = "never") -> Runtime:
    """Open an exported network, a file or its bytes, with the fastest runtime that works here.

    Args:
        model: as exported.
        threads: of the CPU, for one batch.
        gpu: "never", "prefer" (a CPU if there is no GPU that works) or "require". On a GPU, torch with our kernels
            comes first where torch and Triton are installed and the file holds its weights, then ONNX Runtime.

    Raises:
        RuntimeRefusedError: no such file, no network, a GPU is required and none works, or both onnxruntime wheels are
            installed.
    """
    if not isinstance(model, bytes) and not model.is_file():
        raise RuntimeRefusedError(f"there is no model file {model}; train one, or check the bundle")
    check_one_wheel()
    if gpu != "never" and (served := _by_torch(model)) is not None:
        return served
    return OnnxRuntime(*open_session(model, threads, gpu))


def _by_torch(model: Path | bytes) -> Runtime | None:
    """Return a network in torch on a GPU; None where there is no torch, Triton or GPU, or the file is not for it."""
    from importlib.util import find_spec

    if find_spec("torch") is None or find_spec("triton") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    from models.moe.torch_runtime import TorchRuntime
    from models.onnx_weights import WeightsError

    try:
        return TorchRuntime(model if isinstance(model, bytes) else model.read_bytes(), "cuda")
    except WeightsError:
        return None


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
    """Open a model, a file or its bytes, with ONNX Runtime; return the session and what really computes."""
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
            "a GPU is required, and none can be used here; install the driver and either CUDA 13, cuDNN 9 and "
            "onnxruntime-gpu, or torch for CUDA with Triton; or let a CPU do it: --gpu prefer (see also pelton doctor)"
        )
    return session, provider
