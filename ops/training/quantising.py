"""From a bundle and history to a smaller bundle that decides the same, or to the reasons why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from connectors.files import FileInput
from connectors.secrets import Tokeniser
from models.bundle import Bundle, BundleMeta, bundle_id, sha256, write_bundle
from models.calibration import Blend
from models.ftrl import Ftrl
from models.quantize.gate import ROWS_MIN
from models.quantize.graph import QuantizeError
from models.quantize.judging import Judged
from models.quantize.measuring import Measured, best, measure
from models.quantize.speed import BATCHES
from models.quantize.variants import FP32, VARIANTS
from models.scorer import BLEND, FTRL, MOE, Scorer
from ops.progress import Progress, Stage, silent
from ops.training.event_training import data_sha256
from ops.training.history import as_known, read_history
from ops.training.protocol import iso
from pipeline.app import App, Task
from pipeline.dataset import Dataset
from pipeline.errors import nearest

JUDGED_SHARE = 0.15  # of the labelled rows, the newest: what `pelton train` held back, if it was given the same history
POSITIVES_FEW = 50
CALIBRATION_ROWS = 4_000  # those before the judged ones


@dataclass(frozen=True)
class QuantizeSettings:
    """What can be chosen.

    Attributes:
        variant: the one form to measure, and to write if it passes; None takes the fastest that does.
        rows_max: rows to judge on, at most.
        command: how it was started, for the provenance.
        created_ms: when, milliseconds since the epoch, for the provenance.
    """

    variant: str | None = None
    rows_max: int = 10_000
    command: str = ""
    created_ms: int = 0

    def __post_init__(self) -> None:
        """Refuse a variant that there is not."""
        names = [each.name for each in VARIANTS if each.name != FP32]
        if self.variant is not None and self.variant not in names:
            raise QuantizeError(f"there is no variant {self.variant!r}; {nearest(self.variant, names)}")


@dataclass(frozen=True)
class Quantized:
    """What was found.

    Attributes:
        measured: the variants, fp32 first.
        rows, positives: how many were judged.
        first_ms, last_ms: from when to when they are.
        calibration_rows: how many were calibrated on.
        chosen: the variant that was written, None if none was.
        problem: why none was written; empty if one was.
        bundle, folder: what was written, None if nothing.
        notes: what to know before believing the figures.
    """

    measured: tuple[Measured, ...]
    rows: int
    positives: int
    first_ms: int
    last_ms: int
    calibration_rows: int
    chosen: Measured | None
    problem: str
    bundle: Bundle | None
    folder: Path | None
    notes: tuple[str, ...]

    def speeds(self) -> tuple[list[str], list[list[str]]]:
        """Return a header and a row of texts per variant: size and speed."""
        header = ["variant", "MB"]
        for what in ("ms", "rows/s", "x fp32"):
            header += [f"{what} @{BATCHES[0]}", *(f"@{batch}" for batch in BATCHES[1:])]
        rows = []
        for each in self.measured:
            cells = [each.variant.name, f"{len(each.model) / 1e6:.2f}" if each.model else "-"]
            if each.speed is None:
                rows.append(cells + ["-"] * 3 * len(BATCHES))
                continue
            cells += [f"{each.speed.ms[n]:.2f}" for n in BATCHES]
            cells += [f"{each.speed.rows_per_s(n):,.0f}" for n in BATCHES]
            rows.append(cells + [f"{each.speed.times[n]:.2f}" for n in BATCHES])
        return header, rows

    def qualities(self) -> tuple[list[str], list[list[str]]]:
        """Return a header and a row of texts per variant: quality and what the gate says."""
        header = ["variant", "AUC", "AP", "ECE", "|dp| mean", "p99", "max", "flips: experts", "decisions", "gate"]
        rows = []
        for each in self.measured:
            q = each.quality
            cells = ["-"] * 8
            if q is not None:
                cells = [f"{q.auc:.4f}", f"{q.average_precision:.4f}", f"{q.calibration_error:.5f}"]
                cells += [f"{p:.1e}" if p else "0" for p in (q.dp_mean, q.dp_p99, q.dp_max)]
                cells += [f"{share:.2%}" for share in (q.expert_flips, q.decision_flips)]
            gate = "reference" if each.variant.name == FP32 else "refused" if each.refusals else "passes"
            rows.append([each.variant.name, *cells, gate])
        return header, rows

    def refused(self) -> list[tuple[str, str]]:
        """Return each variant that the gate refused, and why."""
        return [
            (each.variant.name, "; ".join(each.refusals))
            for each in self.measured
            if each.refusals and each.variant.name != FP32
        ]


def quantize(
    app: App,
    task: Task,
    inputs: Mapping[str, FileInput],
    bundle: Bundle,
    snapshot: bytes | None,
    settings: QuantizeSettings,
    out_dir: Path,
    progress: Progress = silent,
    tokeniser: Tokeniser | None = None,
) -> Quantized:
    """Replay history, measure forms of a bundle's network on it, and write one that passes the gate as a new bundle.

    Args:
        app: holds the task.
        task: with a label.
        inputs: stream name -> its files.
        bundle: with a network.
        snapshot: a newer state of its learner, which the new bundle then has.
        settings: which variant, how many rows.
        out_dir: made if missing; the new bundle goes to `out_dir`/TASK-ID, if there is one.
        progress: told often.
        tokeniser: for sensitive fields.

    Raises:
        ValueError: the bundle has no network or other features, or the history too few labels; in one sentence.
    """
    if MOE not in bundle.parts:
        raise QuantizeError(f"bundle {bundle.id} has no network, so there is nothing to quantise")
    plan = app.plans[task.on.name]
    Scorer(bundle, snapshot, [plan.specs[column] for column in plan.columns_of[task.name]], buckets=(1,))  # it fits
    data = read_history(app, task, inputs, None, tokeniser, progress)
    return quantize_on(data, task, bundle, snapshot, settings, out_dir, progress)


def quantize_on(
    data: Dataset,
    task: Task,
    bundle: Bundle,
    snapshot: bytes | None,
    settings: QuantizeSettings,
    out_dir: Path,
    progress: Progress = silent,
) -> Quantized:
    """Do it on history that was read already; the rest as in `quantize`."""
    known = as_known(data, None)
    rows = min(max(round(JUDGED_SHARE * len(known)), ROWS_MIN), settings.rows_max, len(known) // 2)
    judged_part = known.where(np.arange(len(known)) >= len(known) - rows)
    before = known.features[max(len(known) - rows - CALIBRATION_ROWS, 0) : len(known) - rows]
    learner = snapshot if snapshot is not None else bundle.parts.get(FTRL)
    judged = Judged(
        judged_part.features, judged_part.labels, before, data.specs,
        Ftrl.restore(learner) if learner is not None else None, task.threshold,
    )  # fmt: skip
    wanted = [each for each in VARIANTS if settings.variant in (None, each.name) or each.name == FP32]
    found = measure(
        bundle.part(MOE), Blend.from_json(bundle.part(BLEND)), judged, wanted,
        tell=lambda stage, done, total, note: progress(Stage(stage, done, total, note)),
    )  # fmt: skip
    chosen, problem = _choose(found, settings.variant)
    written, folder = None, None
    if chosen is not None:
        parts = bundle.parts | {MOE: chosen.model, BLEND: chosen.blend.to_json()}
        parts |= {FTRL: learner} if learner is not None else {}
        folder = out_dir / f"{task.name}-{bundle_id({name: sha256(part) for name, part in parts.items()})}"
        written = write_bundle(folder, parts, _meta(bundle, chosen, known, rows, settings))
    return Quantized(
        tuple(found), rows, int(judged_part.labels.sum()), int(judged_part.times_ms.min()),
        int(judged_part.times_ms.max()), len(before), chosen, problem, written, folder,
        _notes(bundle, known, judged_part, chosen),
    )  # fmt: skip


def _choose(found: list[Measured], wanted: str | None) -> tuple[Measured | None, str]:
    if wanted is None:
        chosen = best(found)
        return chosen, "" if chosen is not None else "no variant passes the gate, so nothing was written; serve fp32"
    asked = next(each for each in found if each.variant.name == wanted)
    if asked.refusals:
        return None, f"{wanted} does not pass the gate, so nothing was written: {'; '.join(asked.refusals)}"
    return asked, ""


def _meta(bundle: Bundle, chosen: Measured, known: Dataset, rows: int, settings: QuantizeSettings) -> BundleMeta:
    quality, speed = chosen.quality, chosen.speed
    assert quality is not None and speed is not None
    made: dict[str, str | int | float | None] = {
        "quantized_from": bundle.id,
        "quantized_variant": chosen.variant.name,
        "quantized_command": settings.command,
        "quantized_data_sha256": data_sha256(known),
        "quantized_judged_rows": rows,
        "quantized_onnxruntime": _version_of_runtime(),
    }
    metrics: dict[str, float | None] = {
        "quantized.auc": round(quality.auc, 4),
        "quantized.average_precision": round(quality.average_precision, 4),
        "quantized.calibration_error": round(quality.calibration_error, 5),
        "quantized.dp_p99": float(f"{quality.dp_p99:.3g}"),
        "quantized.expert_flips": round(quality.expert_flips, 5),
        "quantized.decision_flips": round(quality.decision_flips, 5),
    }
    return BundleMeta(
        f"{bundle.meta.name} {chosen.variant.name}", bundle.meta.task, settings.created_ms,
        bundle.meta.provenance | made, bundle.meta.metrics | metrics,
    )  # fmt: skip


def _version_of_runtime() -> str:
    for package in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _notes(bundle: Bundle, known: Dataset, judged: Dataset, chosen: Measured | None) -> tuple[str, ...]:
    notes = []
    last_ms = bundle.meta.provenance.get("last_ms")
    first_ms = int(judged.times_ms.min())
    same = bundle.meta.provenance.get("data_sha256") == data_sha256(known)  # then its network held the judged rows back
    if isinstance(last_ms, int | float) and first_ms <= last_ms and not same:
        notes.append(
            f"bundle {bundle.id} learned from events until {iso(int(last_ms))}, and the judged ones begin "
            f"{iso(first_ms)}: if they are of the same history, AUC, AP and ECE are too good; the differences hold"
        )
    if int(judged.labels.sum()) < POSITIVES_FEW:
        notes.append(f"only {int(judged.labels.sum())} of the judged rows are positive: AUC and AP say little")
    if chosen is not None and not chosen.variant.standard:
        notes.append(
            "it has an operator that only ONNX Runtime computes, here on a CPU: serve it with version "
            f"{_version_of_runtime()} or newer; --variant experts-int8 runs everywhere"
        )
    return tuple(notes)
