"""Export a network as one ONNX file of standard operators, and refuse to if it does not compute the same.

The graph takes the raw float64 matrix (NaN is null) and gives logits: preprocessing travels inside. Experts are served
by sorting tokens by expert and splitting with run-time sizes, so that any batch size is exact and no expert idles work.
Beside the logits it tells which experts the tokens visited (`models.onnx_outputs`).
"""

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from models.features import FeatureSpec
from models.moe.network import MoENetwork, cut_out
from models.onnx_outputs import tell_chosen

LARGEST_DIFFERENCE = 1e-5  # of a logit between torch and ONNX Runtime, in fp32
LARGEST_BYTES = 12_000_000
OPSET = 20
BATCHES = (1, 7, 64)


class ExportError(ValueError):
    """The exported graph must not be served: too large, or it computes something else."""


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it was checked.

    Attributes:
        path: the ONNX file.
        size_bytes: of the file.
        nodes: operators in the graph.
        differences: per check, the largest absolute difference of a logit between torch and ONNX Runtime.
    """

    path: Path
    size_bytes: int
    nodes: int
    differences: dict[str, float]


class _Logits(nn.Module):
    def __init__(self, network: MoENetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> Tensor:  # (n, F) float64
        return self.network.logits(features)  # (n,) float32


def export(
    network: MoENetwork, path: Path, rows: NDArray[np.float64], seed: int = 0, task: str | None = None
) -> ExportReport:
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
    cases = probes(rows, network.encoders[0].specs, np.random.default_rng(seed))
    _check_size(sum(array.nbytes for array in network.state_dict().values()))  # at once, not after the export
    model = _to_onnx(network)
    _check_size(model.ByteSize())
    differences = _gate(network, model, cases)
    worst = max(differences, key=lambda name: differences[name])
    if not differences[worst] <= LARGEST_DIFFERENCE:
        raise ExportError(
            f"ONNX Runtime and torch differ by {differences[worst]:.2g} in a logit ({worst}); "
            f"{LARGEST_DIFFERENCE:.0e} is allowed, so nothing was written"
        )
    fresh = path.with_suffix(".new")
    fresh.write_bytes(model.SerializeToString())
    fresh.replace(path)
    return ExportReport(path, path.stat().st_size, len(model.graph.node), differences)


def _check_size(size_bytes: int) -> None:
    if size_bytes > LARGEST_BYTES:
        raise ExportError(
            f"the ONNX file would have {size_bytes:,} bytes, more than {LARGEST_BYTES:,}; "
            "choose fewer experts, a smaller width or fewer buckets"
        )


def probes(
    rows: NDArray[np.float64], specs: Sequence[FeatureSpec], chance: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    """Build the gate's inputs: real rows in several batch sizes, with nulls, all null, far out, unseen categories."""
    if not len(rows):
        raise ExportError("the parity gate got no feature rows; give it at least one")
    picked = rows[chance.integers(0, len(rows), max(BATCHES))]
    nulls = np.where(chance.random(picked.shape) < 0.3, np.nan, picked)
    categories = np.array([spec.kind == "category" for spec in specs])
    far = np.where(categories, chance.integers(0, 1 << 32, picked.shape), chance.normal(size=picked.shape) * 1e9)
    cases = {f"batch {n}": picked[:n] for n in BATCHES}
    return cases | {"nulls": nulls, "all null": np.full_like(picked[:7], np.nan), "far out": far}


def _to_onnx(network: MoENetwork) -> onnx.ModelProto:
    specs = network.encoders[0].specs
    sample = torch.zeros(3, len(specs), dtype=torch.float64)
    _set_exporting(network, True)
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # it warns that torchvision is missing, which nobody here needs
    try:
        program = torch.onnx.export(
            _Logits(network).eval(),
            (sample,),
            input_names=["features"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("events")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    finally:
        _set_exporting(network, False)
        registration.setLevel(level)
    if program is None:
        raise ExportError("torch gave no ONNX program; check that torch and onnxscript belong together")
    model = program.model_proto
    del model.graph.value_info[:]  # the placeholder shapes of the split are in there, and wrong
    del model.functions[:]
    for node in model.graph.node:  # names and stack traces of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.metadata_props[:]
    _rename(model, _names(network))
    notes = {
        "pelton.columns": json.dumps([asdict(spec) for spec in specs]),
        "pelton.sizes": json.dumps(asdict(network.settings)),
    }
    onnx.helper.set_model_props(model, notes)
    tell_chosen(model, network.settings.layers)
    foreign = sorted({node.domain for node in model.graph.node} - {""})
    if foreign:
        raise ExportError(f"the graph uses operators of {', '.join(foreign)}; only standard ones run everywhere")
    onnx.checker.check_model(model)
    return model


def _names(network: MoENetwork) -> dict[str, str]:
    """Tell the name in the graph of each array: there is one task, and its head is called what it is."""
    head = type(network.heads[0]).__name__.lower()
    shorter = (("encoders.0.", "encoder."), ("trunk.", ""), ("heads.0.", f"{head}."))
    names = {}
    for name in (*dict(network.named_parameters()), *dict(network.named_buffers())):
        old, new = next((old, new) for old, new in shorter if name.startswith(old))
        names[f"network.{name}"] = f"network.{new}{name.removeprefix(old)}"
    return names


def _rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    for initializer in model.graph.initializer:
        initializer.name = names.get(initializer.name, initializer.name)
    for node in model.graph.node:
        for place, tensor in enumerate(node.input):
            node.input[place] = names.get(tensor, tensor)


def _set_exporting(network: MoENetwork, on: bool) -> None:
    for block in network.trunk.blocks:
        block.experts.exporting = on


def _gate(network: MoENetwork, model: onnx.ModelProto, cases: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """Compare on the given inputs, then with routers bent so that ties, idle and crowded experts are sure to occur."""
    found = {name: _difference(network, model, rows) for name, rows in cases.items()}
    rows = cases["nulls"]
    for name, bend in (("ties", _tie), ("an empty expert", _empty), ("all to one expert", _crowd)):
        bent = copy.deepcopy(network)
        for router in bent.routers():
            bend(router)
        for n in BATCHES:
            found[f"{name}, batch {n}"] = _difference(bent, _with_routers_of(bent, network, model), rows[:n])
    return found


def _tie(router: nn.Module) -> None:
    router.weight.data.zero_()  # all scores equal: the lowest indices must win everywhere
    router.bias.zero_()


def _empty(router: nn.Module) -> None:
    router.bias[0] = -1e3


def _crowd(router: nn.Module) -> None:
    router.bias[-1] = 1e3


def _with_routers_of(bent: MoENetwork, original: MoENetwork, model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy the graph with the arrays of bent routers, which is quicker than another export."""
    names = _names(original)
    arrays = {names[f"network.{name}"]: array for name, array in original.state_dict().items() if ".router." in name}
    after = {names[f"network.{name}"]: array for name, array in bent.state_dict().items() if ".router." in name}
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    replaced = []
    for initializer in copied.graph.initializer:
        if initializer.name in arrays:
            initializer.CopyFrom(numpy_helper.from_array(after[initializer.name].numpy(), initializer.name))
            replaced.append(initializer.name)
    for name, array in arrays.items():  # the exporter keeps one of equal arrays, and all routers are bent alike
        if not any(torch.equal(array, arrays[other]) for other in replaced):
            raise ExportError(
                f"{name} is not in the graph under its name, so ties and crowded experts cannot be checked; "
                "use the torch and onnxscript versions that the project pins"
            )
    return copied


def _difference(network: MoENetwork, model: onnx.ModelProto, rows: NDArray[np.float64]) -> float:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network.logits(torch.from_numpy(np.ascontiguousarray(rows))).double().numpy()
    got = session.run(["logits"], {"features": rows})[0].astype(np.float64)
    difference = float(np.max(np.abs(got - expected)))
    return difference if np.isfinite(difference) else float("inf")
