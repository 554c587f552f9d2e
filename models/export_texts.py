"""Export a network on texts: rows of grams and pieces, each (n, as many as the longest message has), to logits.

One that was trained with a sentence encoder takes its vectors (n, s), too; the encoder itself is a graph of its own.

The table of grams, most of the file, is stored in half precision; the gate compares with a network that has it, too.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from models.moe.network import MoENetwork, cut_out
from models.moe.text import TextSettings
from models.onnx_export import Exported, ExportError, Form, Probes, checked, to_onnx
from models.text.inputs import TextInputs
from models.text.runtime import NAMES, TEXT

BATCHES = (1, 3, 8)
TABLE = "bag.table"


def _logits(network: MoENetwork, *inputs: Tensor) -> tuple[Tensor]:  # (n, g), (n, g), (n, p), and maybe (n, s)
    return (network.logits(inputs),)


def form_of(text: TextSettings) -> Form:
    """Tell what the graph takes: all that `TextInputs.arrays` gives."""
    rows = {name: ["count", name] for name in NAMES[:3]}
    sentences = {NAMES[3]: ["count"]} if text.sentence else {}
    return Form(_logits, rows | sentences, ["logits"], by_size=True)


def export_texts(network: MoENetwork, inputs: TextInputs, task: str | None = None) -> Exported:
    """Return the ONNX file of a task on texts.

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
    encoder = network.encoders[0]
    encoder.bag.table.data = encoder.bag.table.data.half().float()
    form, sample = form_of(encoder.text), [torch.zeros(3, columns, dtype=torch.int64) for columns in (5, 6, 7)]
    if encoder.text.sentence:
        sample.append(torch.zeros(3, encoder.text.sentence))
    model = to_onnx(network, form, sample, {TEXT: asdict(encoder.text)})
    _halve_table(model)
    return checked(network, model, form, probes(inputs, encoder.text))


def probes(inputs: TextInputs, text: TextSettings) -> Probes:
    """Build the gate's inputs: real messages in several batch sizes, empty ones, random ones."""
    chance = np.random.default_rng(0)
    real = [inputs.rows(chance.integers(0, len(inputs.words), count)) for count in BATCHES]
    cases = {f"batch {len(each.words)}": each for each in real}
    cases["the first one"] = inputs.rows(np.array([0]))
    nothing, any = (None, None) if not text.sentence else (
        np.zeros((2, text.sentence), np.float32), chance.normal(0, 1, (4, text.sentence)).astype(np.float32)
    )  # fmt: skip
    none = np.zeros((2, 1), np.int64)
    cases["empty"] = TextInputs(none, none, none, nothing)
    words, letters = (chance.integers(0, text.buckets + 1, (4, 300)) for _ in range(2))
    cases["random"] = TextInputs(words, letters, chance.integers(0, text.pieces, (4, text.pieces_max)), any)
    routed = {f"batch {len(each.words)}": _padded(each, text.pieces_max) for each in real}
    return Probes(*({name: each.arrays() for name, each in those.items()} for those in (cases, routed)))


def _padded(inputs: TextInputs, pieces_max: int) -> TextInputs:
    """Let padding follow every message, and let one that has others beside it be nothing but padding."""
    pieces = np.zeros((len(inputs.pieces), pieces_max), np.int64)
    kept = inputs.pieces[:, : pieces_max - 1]
    pieces[:, : kept.shape[1]] = kept
    if len(pieces) > 1:
        pieces[-1] = 0
    return inputs._replace(pieces=pieces)


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
