"""Export a network on event features: the raw float64 matrix (NaN is null) to logits, preprocessing included."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.features import FeatureSpec
from models.moe.network import MoENetwork, cut_out
from models.onnx_export import Exported, ExportError, Form, Probes, check_size, checked, to_onnx

BATCHES = (1, 7, 64)
FORM = Form(lambda network, features: (network.logits(features),), {"features": ["events"]}, ["logits"], by_size=False)


def export(
    network: MoENetwork, path: Path, rows: NDArray[np.float64], seed: int = 0, task: str | None = None
) -> Exported:
    """Write `network` to `path` after the parity gate; a file that fails is never left behind.

    Args:
        network: trained, any device; it is copied to the CPU and left as it is.
        path: of the ONNX file; an older one is replaced.
        rows: (events, columns) real feature rows for the gate, at least one; more are drawn around them.
        seed: of the drawn rows.
        task: on event features; only what it needs is written. May be left out where there is one only.

    Raises:
        ExportError: the file would be over 12 MB, or a logit differs by more than 1e-5 from torch.
    """
    network = cut_out(network, task).cpu().eval()
    specs = network.encoders[0].specs
    tried = probes(rows, specs, np.random.default_rng(seed))
    check_size(sum(array.nbytes for array in network.state_dict().values()))  # at once, not after the export
    sample = torch.zeros(3, len(specs), dtype=torch.float64)
    model = to_onnx(network, FORM, [sample], {"pelton.columns": [asdict(spec) for spec in specs]})
    exported = checked(network, model, FORM, tried)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(exported.file)
    fresh.replace(path)
    return exported


def probes(rows: NDArray[np.float64], specs: Sequence[FeatureSpec], chance: np.random.Generator) -> Probes:
    """Build the gate's inputs: real rows in several batch sizes, with nulls, all null, far out, unseen categories."""
    if not len(rows):
        raise ExportError("the parity gate got no feature rows; give it at least one")
    picked = rows[chance.integers(0, len(rows), max(BATCHES))]
    nulls = np.where(chance.random(picked.shape) < 0.3, np.nan, picked)
    categories = np.array([spec.kind == "category" for spec in specs])
    far = np.where(categories, chance.integers(0, 1 << 32, picked.shape), chance.normal(size=picked.shape) * 1e9)
    cases = {f"batch {n}": picked[:n] for n in BATCHES}
    cases |= {"nulls": nulls, "all null": np.full_like(picked[:7], np.nan), "far out": far}
    return Probes({name: [case] for name, case in cases.items()}, {f"batch {n}": [nulls[:n]] for n in BATCHES})
