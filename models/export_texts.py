"""Export a network on texts as one ONNX file of standard operators, and refuse to if it does not compute the same.

The graph takes rows of grams and pieces, each (n, as many as the longest message has), and gives logits (n, classes).
The table of grams, most of the file, is stored in half precision; the gate compares with a network that has it, too.
"""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import asdict

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from models.export import LARGEST_BYTES, LARGEST_DIFFERENCE, OPSET, ExportError
from models.moe.network import MoENetwork, cut_out
from models.onnx_outputs import tell_chosen
from models.text.inputs import TextInputs
from models.text.runtime import NAMES, TEXT

BATCHES = (1, 3, 8)
TABLE = "bag.table"


class _Logits(nn.Module):
    def __init__(self, network: MoENetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, words: Tensor, letters: Tensor, pieces: Tensor) -> Tensor:  # (n, g), (n, g), (n, p)
        logits: Tensor = self.network.logits((words, letters, pieces))
        return logits


def export_texts(network: MoENetwork, inputs: TextInputs, task: str | None = None) -> tuple[bytes, float]:
    """Return the ONNX file of a task on texts, and the largest difference to torch that was seen.

    Args:
        network: trained; it is copied to the CPU and left as it is.
        inputs: real ones for the parity gate, at least one message; empty and random ones are added.
        task: on texts; may be left out where there is one only.

    Raises:
        ExportError: the file would be over 12 MB, or a logit differs by more than 1e-5 of its size.
    """
    if not len(inputs.words):
        raise ExportError("the parity gate got no messages; give it at least one")
    network = cut_out(network, task).cpu().eval()
    table = network.encoders[0].bag.table
    table.data = table.data.half().float()
    model = _to_onnx(network)
    _halve_table(model)
    onnx.checker.check_model(model)
    if model.ByteSize() > LARGEST_BYTES:
        raise ExportError(f"the ONNX file would have {model.ByteSize():,} bytes, more than {LARGEST_BYTES:,}")
    differences = _gate(network, model, inputs)
    worst = max(differences, key=lambda name: differences[name])
    if not differences[worst] <= LARGEST_DIFFERENCE:
        raise ExportError(
            f"ONNX Runtime and torch differ by {differences[worst]:.2g} ({worst}); {LARGEST_DIFFERENCE:.0e} is "
            "allowed, so nothing was written"
        )
    return model.SerializeToString(), differences[worst]


def _to_onnx(network: MoENetwork) -> onnx.ModelProto:
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # it warns that torchvision is missing, which nobody here needs
    count = torch.export.Dim("count")
    shapes = tuple({0: count, 1: torch.export.Dim(name)} for name in NAMES)
    sample = tuple(torch.zeros(3, columns, dtype=torch.int64) for columns in (5, 6, 7))
    _set_exporting(network, True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "# The axis name: count", UserWarning)  # all inputs share it on purpose
            program = torch.onnx.export(
                _Logits(network).eval(), sample, input_names=list(NAMES), output_names=["logits"],
                dynamic_shapes=shapes, opset_version=OPSET, dynamo=True, verbose=False,
            )  # fmt: skip
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
    notes = {"pelton.sizes": json.dumps(asdict(network.settings)), TEXT: json.dumps(asdict(network.encoders[0].text))}
    onnx.helper.set_model_props(model, notes)
    tell_chosen(model, network.settings.layers)
    foreign = sorted({node.domain for node in model.graph.node} - {""})
    if foreign:
        raise ExportError(f"the graph uses operators of {', '.join(foreign)}; only standard ones run everywhere")
    return model


def _halve_table(model: onnx.ModelProto) -> None:
    """Store the table in half precision; the rows that are looked up become single precision again."""
    graph = model.graph
    table = next((each for each in graph.initializer if each.name.endswith(TABLE)), None)
    lookups = [node for node in graph.node if table is not None and node.input and node.input[0] == table.name]
    if table is None or not lookups or any(node.op_type != "Gather" for node in lookups):
        raise ExportError("the table of grams is not looked up in the graph as expected; use the pinned torch")
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table).astype(np.float16), table.name))
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node in lookups:
            found = node.output[0]
            node.output[0] = f"{found}_half"
            nodes.append(onnx.helper.make_node("Cast", [node.output[0]], [found], to=onnx.TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)


def _set_exporting(network: MoENetwork, on: bool) -> None:
    for block in network.trunk.blocks:
        block.experts.exporting = on


def _gate(network: MoENetwork, model: onnx.ModelProto, inputs: TextInputs) -> dict[str, float]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    chance, text = np.random.default_rng(0), network.encoders[0].text
    real = [inputs.rows(chance.integers(0, len(inputs.words), count)) for count in BATCHES]
    cases = {f"batch {len(each.words)}": each for each in real}
    cases["one after another, one by itself"] = inputs.rows(np.array([0]))
    cases["empty"] = TextInputs(*(np.zeros((2, 1), np.int64) for _ in NAMES))
    words, letters = (chance.integers(0, text.buckets + 1, (4, 300)) for _ in range(2))
    cases["random"] = TextInputs(words, letters, chance.integers(0, text.pieces, (4, text.pieces_max)))
    found = {}
    for name, case in cases.items():
        with torch.no_grad():
            expected = network.logits(tuple(torch.from_numpy(np.ascontiguousarray(each)) for each in case)).numpy()
        got = session.run(["logits"], dict(zip(NAMES, case, strict=True)))[0]
        difference = float(np.abs(expected - got).max()) / max(1.0, float(np.abs(expected).max()))
        found[name] = difference if np.isfinite(difference) else float("inf")
    return found
