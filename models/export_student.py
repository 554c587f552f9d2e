"""Export the small network of a task: the same inputs and outputs as the large one, see `models.export` and others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray

from models.export import FORM, probes
from models.moe.student import EventStudent
from models.onnx_export import Exported, checked_plain, plain_onnx

__all__ = ["export_event_student"]


def export_event_student(student: EventStudent, rows: NDArray[np.float64], seed: int = 0) -> Exported:
    """Return the ONNX file of a student of event features, after the parity gate: batches of 1, 7 and 64, nulls.

    Args:
        student: on the CPU.
        rows: (events, columns) real feature rows for the gate, at least one.
        seed: of the rows drawn around them.

    Raises:
        ExportError: the file would be over 12 MB, or a logit differs by more than 1e-5 from torch.
    """
    student = student.eval()
    sample: Sequence[torch.Tensor] = [torch.zeros(3, len(student.specs), dtype=torch.float64)]
    notes = {"pelton.columns": [asdict(spec) for spec in student.specs], "pelton.student": asdict(student.settings)}
    model = plain_onnx(student, FORM, sample, notes)
    return checked_plain(student, model, FORM, probes(rows, student.specs, np.random.default_rng(seed)))
