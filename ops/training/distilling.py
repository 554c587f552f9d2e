"""A student for a task: a small dense network that learns from the large one, and how both compare."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.scorer import DISTILLED, MOE
from ops.progress import Progress, Stage

if TYPE_CHECKING:
    from models.train.distill import DistillSettings
    from models.train.events import EventData
    from ops.training.training import TrainingSettings

EVENT_EPOCHS, EPOCHS_QUICK, STUDENT_RATE = 8, 4, 3e-3
NETWORKS = "networks"  # in the training report: task -> network -> size, figures, latency
TIMED_ONE, TIMED_MANY, MANY, TOKENS = 300, 30, 64, 24
PARTS = {"moe": MOE, "distilled": DISTILLED}


@dataclass(frozen=True)
class NetworkFigures:
    """One of the networks of a bundle.

    Attributes:
        name: "moe" or "distilled".
        size_bytes: of its file.
        figures: how good it is on what was held back.
        one_ms: median time of one example alone, one thread.
        many_ms: median time of one example among 64.
    """

    name: str
    size_bytes: int
    figures: dict[str, float]
    one_ms: float
    many_ms: float


def compared(files: Mapping[str, bytes], metrics: Mapping[str, float | None]) -> list[NetworkFigures]:
    """Time networks on this machine, on one thread and made-up inputs.

    Args:
        files: name -> ONNX file.
        metrics: of the bundle; those that begin with "held_back.NAME." are a network's figures.
    """
    found = []
    for name, file in files.items():
        begin = f"held_back.{name}."
        its = {each.removeprefix(begin): value for each, value in metrics.items() if each.startswith(begin)}
        figures = {each: value for each, value in its.items() if value is not None}
        found.append(NetworkFigures(name, len(file), figures, *times_ms(file)))
    return found


def networks_of(bundle: Bundle) -> list[NetworkFigures]:
    """Compare the networks of a bundle; none where there is only one."""
    files = {name: bundle.parts[part] for name, part in PARTS.items() if part in bundle.parts}
    return compared(files, bundle.meta.metrics) if len(files) > 1 else []


def times_ms(file: bytes) -> tuple[float, float]:
    """Return the median milliseconds of one example alone, and of one among many; the first runs are left out."""
    from models.runtimes import open_session

    session, _ = open_session(file, threads=1, gpu="never")
    chance, medians = np.random.default_rng(0), []
    for count, times in ((1, TIMED_ONE), (MANY, TIMED_MANY)):
        given = {each.name: _made_up(each.type, [count, *each.shape[1:]], chance) for each in session.get_inputs()}
        took = []
        for _ in range(times + times // 10):
            began = time.perf_counter()
            session.run(["logits"], given)
            took.append(1e3 * (time.perf_counter() - began))
        medians.append(round(float(np.median(took[times // 10 :])) / count, 4))
    return medians[0], medians[1]


def _made_up(kind: str, shape: Sequence[Any], chance: np.random.Generator) -> NDArray[Any]:
    """Return inputs of a shape, axes that are not known filled as a short message does."""
    sizes = [each if isinstance(each, int) else TOKENS for each in shape]
    if kind == "tensor(double)":
        return np.abs(chance.normal(size=sizes) * 100)
    return chance.integers(1, 256, sizes).astype(np.uint8 if kind == "tensor(uint8)" else np.int64)


def network_rows(networks: Sequence[NetworkFigures]) -> tuple[list[str], list[list[str]]]:
    """Return a table of networks: how large, how good, how fast."""
    names = list(dict.fromkeys(name for each in networks for name in each.figures))
    rows = [
        [each.name, f"{each.size_bytes:,}", *(f"{each.figures[n]:.4f}" if n in each.figures else "-" for n in names),
         f"{each.one_ms:.3f}", f"{each.many_ms:.4f}"]
        for each in networks
    ]  # fmt: skip
    told = [name.replace("_", " ") for name in names]
    return ["network", "bytes", *told, "ms alone", f"ms of {MANY}"], rows


def report_networks(report_path: Path, task: str, networks: Sequence[NetworkFigures]) -> None:
    """Write what is known of a task's networks, if there are several, into the training report."""
    if not networks:
        return
    report = msgspec.json.decode(report_path.read_bytes())
    report.setdefault(NETWORKS, {})[task] = msgspec.to_builtins(networks)
    report_path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def distil_settings(settings: TrainingSettings, epochs: int) -> DistillSettings:
    """Return how a student learns in a training."""
    from models.train.distill import DistillSettings
    from models.train.tuning import Tuning

    wanted = min(EPOCHS_QUICK, epochs) if settings.quick else epochs
    return DistillSettings(tuning=Tuning(wanted, STUDENT_RATE, seed=settings.seed, threads=settings.threads))


def distil_events(
    data: EventData,
    taught: NDArray[np.float64],
    rows: NDArray[np.float64],
    settings: TrainingSettings,
    progress: Progress,
) -> bytes:
    """Let a student of event features learn from the trained network; return its ONNX file.

    Args:
        data: what the network was trained on.
        taught: (events,) its logits, as served.
        rows: (events, columns) for the parity gate.
        settings: of the training.
        progress: told of the stage "student".

    Raises:
        ExportError: what was exported computes something else than torch.
    """
    import torch

    from models.export_student import export_event_student
    from models.moe.student import EventStudent
    from models.train.distill import distil

    wanted = distil_settings(settings, EVENT_EPOCHS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        student = EventStudent(data.specs)
    known = data.data.training_rows()
    student.start(data.data.features[known], data.data.labels[known])
    made = distil(
        data.with_teacher(taught), student, wanted, lambda *told: progress(Stage("student", *told)), shift=data.shift
    )
    exported = export_event_student(made.student, rows)
    best = made.epochs[made.best_epoch - 1][data.figure]
    progress(Stage("student", 1, 1, f"{data.figure.replace('_', ' ')} {best:.3f}, {exported.in_words()}"))
    return exported.file
