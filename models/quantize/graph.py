"""Find the sparse layers of an exported network, and rebuild what computes their routed experts.

Letters: n rows, d width, e experts, k chosen, f hidden numbers of an expert.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from models.onnx_outputs import tell_chosen
from models.runtimes import open_session

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
_ROUTER = re.compile(r"(.*\.experts\.)router\.weight")
ROWS_AT_ONCE = 64
NEVER = -1e4  # the logarithm of a weight that softmax makes 0


class QuantizeError(ValueError):
    """A network cannot be quantised as asked; the message says why."""


@dataclass(frozen=True)
class Layer:
    """The names of a sparse layer's tensors.

    Attributes:
        rows: (n, d) float32, what router and experts see.
        scores: (n, e) float32.
        ids: (n, k) int64, the chosen experts.
        weights: (n, k) float32, how much each counts.
        routed: (n, d) float32, the weighted sum of the chosen experts.
        up, down: the initialisers (e, d, 2f) and (e, f, d).
    """

    rows: str
    scores: str
    ids: str
    weights: str
    routed: str
    up: str
    down: str


class Graph:
    """A copy of an exported network that may be changed; the experts of a layer are one array each for up and down.

    Raises:
        QuantizeError: it has no sparse layer of the form that `models.onnx_export` makes.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.layers = _layers(self.model)
        notes = {each.key: each.value for each in model.metadata_props}
        self.chosen = int(json.loads(notes["pelton.sizes"])["chosen"])

    def array(self, name: str) -> Float32s:
        """Return an initialiser."""
        return next(numpy_helper.to_array(each) for each in self.model.graph.initializer if each.name == name)

    def add(self, name: str, array: NDArray[np.generic]) -> str:
        """Add an initialiser, or replace the one of that name."""
        self.remove_initializer(name)
        self.model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def remove_initializer(self, name: str) -> None:
        """Remove an initialiser, if it is there."""
        for each in [each for each in self.model.graph.initializer if each.name == name]:
            self.model.graph.initializer.remove(each)

    def compute(self, output: str, nodes: Sequence[onnx.NodeProto]) -> None:
        """Let `nodes`, in their order, make a tensor; what made it before is dropped."""
        old = list(self.model.graph.node)
        place = next((at for at, node in enumerate(old) if output in node.output), 0)
        kept = [node for node in old if output not in node.output]
        del self.model.graph.node[:]
        self.model.graph.node.extend([*kept[:place], *nodes, *kept[place:]])

    def use_contrib(self) -> None:
        """Allow operators of `com.microsoft`, which ONNX Runtime alone has."""
        if all(each.domain != "com.microsoft" for each in self.model.opset_import):
            self.model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))


def visitors(graph: Graph, rows: Float64s) -> list[tuple[Float32s, NDArray[np.int64]]]:
    """Return per layer what its experts see of feature rows, (n, d), and which of them each visits, (n, k)."""
    telling = onnx.ModelProto()
    telling.CopyFrom(graph.model)
    del telling.graph.output[:]
    names = [name for layer in graph.layers for name in (layer.rows, layer.ids)]
    kinds = [onnx.TensorProto.FLOAT, onnx.TensorProto.INT64] * len(graph.layers)
    telling.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, kind, [None, None]) for name, kind in zip(names, kinds, strict=True)
    )
    told = run(pruned(telling), names, rows)
    return [(told[2 * layer], told[2 * layer + 1]) for layer in range(len(graph.layers))]


def run(model: onnx.ModelProto, names: Sequence[str], rows: Float64s) -> list[NDArray[Any]]:
    """Return some outputs for all rows, computed on one thread, a batch at a time."""
    session, _ = open_session(model.SerializeToString(), threads=1, gpu="never")
    batches = [rows[first : first + ROWS_AT_ONCE] for first in range(0, len(rows), ROWS_AT_ONCE)]
    parts = [session.run(list(names), {"features": np.ascontiguousarray(batch)}) for batch in batches]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def with_chosen(model: onnx.ModelProto, layers: int) -> onnx.ModelProto:
    """Return a copy that also tells which experts were chosen, as newer files do anyway."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    tell_chosen(copied, layers)
    return copied


def with_outputs_of(model: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that tells what `original` tells, and holds nothing that this does not need."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    wanted = {each.name for each in original.graph.output}
    kept = [each for each in copied.graph.output if each.name in wanted]
    del copied.graph.output[:]
    copied.graph.output.extend(kept)
    return pruned(copied)


def differing(original: onnx.ModelProto, changed: onnx.ModelProto, layers: Sequence[Layer]) -> list[str]:
    """Name the trained arrays, besides those of routed experts, that a changed network does not hold bit by bit."""
    experts = {name for layer in layers for name in (layer.up, layer.down)}
    there = {each.name: each for each in changed.graph.initializer}
    return [
        each.name
        for each in pruned(original).graph.initializer
        if each.name not in experts and _is_float(each) and not _same(each, there.get(each.name))
    ]


def experts_in_float(original: onnx.ModelProto, changed: onnx.ModelProto, layers: Sequence[Layer]) -> bool:
    """Tell whether a changed network still holds routed experts as floating-point numbers, in whatever layout."""
    sizes = {each.name: int(np.prod(each.dims)) for each in original.graph.initializer}
    experts = {name for layer in layers for name in (layer.up, layer.down)}
    smallest = min(sizes[name] for name in experts)
    return any(
        _is_float(each) and np.prod(each.dims) >= smallest and (each.name not in sizes or each.name in experts)
        for each in changed.graph.initializer
    )


def _is_float(array: onnx.TensorProto) -> bool:
    return array.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def _same(one: onnx.TensorProto, other: onnx.TensorProto | None) -> bool:
    if other is None or one.dims != other.dims or one.data_type != other.data_type:
        return False
    return numpy_helper.to_array(one).tobytes() == numpy_helper.to_array(other).tobytes()  # NaN is NaN here


def pruned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without nodes and initialisers that no output needs."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    needed, kept = {each.name for each in copied.graph.output}, []
    for node in reversed(copied.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    arrays = [each for each in copied.graph.initializer if each.name in needed]
    del copied.graph.node[:], copied.graph.initializer[:]
    copied.graph.node.extend(reversed(kept))
    copied.graph.initializer.extend(arrays)
    return copied


def _layers(model: onnx.ModelProto) -> list[Layer]:
    prefixes = [match[1] for each in model.graph.initializer if (match := _ROUTER.fullmatch(each.name))]
    if not prefixes:
        raise QuantizeError("the network has no routers under their names; train it again with this version")
    return [_layer(model, prefix) for prefix in prefixes]


def _layer(model: onnx.ModelProto, prefix: str) -> Layer:
    def user(tensor: str, kind: str, place: int = 0) -> onnx.NodeProto:
        for node in model.graph.node:
            if node.op_type == kind and len(node.input) > place and node.input[place] == tensor:
                return node
        raise QuantizeError(f"{prefix}router has no {kind} where one was expected; train it again with this version")

    def maker(tensor: str) -> onnx.NodeProto:
        return next(node for node in model.graph.node if tensor in node.output)

    product = user(f"{prefix}router.weight", "MatMul", 1)
    rows = product.input[0]
    scores = user(product.output[0], "Sigmoid").output[0]
    picked = user(scores, "GatherElements")
    weights = user(picked.output[0], "Div").output[0]
    weighted = user(user(weights, "Unsqueeze").output[0], "Mul", 1)
    routed = user(weighted.output[0], "ReduceSum").output[0]
    there = {each.name: each for each in model.graph.initializer}
    if f"{prefix}up" not in there:
        parts = user(user(rows, "Gather").output[0], "Split").output
        _stack(model, f"{prefix}up", [user(part, "MatMul").input[1] for part in parts])
    if f"{prefix}down" not in there:
        answers = maker(maker(maker(weighted.input[0]).input[0]).input[0]).input  # by way of Reshape, Gather, Concat
        _stack(model, f"{prefix}down", [maker(answer).input[1] for answer in answers])
    return Layer(rows, scores, picked.input[1], weights, routed, f"{prefix}up", f"{prefix}down")


def _stack(model: onnx.ModelProto, name: str, experts: Sequence[str]) -> None:
    """Put the arrays of experts together again, which the exporter takes apart if they are small."""
    there = {each.name: each for each in model.graph.initializer}
    if not all(each in there for each in experts):
        raise QuantizeError(f"{name} is not in the network; train it again with this version")
    stacked = np.stack([numpy_helper.to_array(there[each]) for each in experts])
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for number, each in enumerate(experts):
        place = numpy_helper.from_array(np.array(number), f"{name}.{number}")
        model.graph.initializer.append(place)
        model.graph.node.append(onnx.helper.make_node("Gather", [name, place.name], [each], axis=0))
        model.graph.initializer.remove(there[each])
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(stacked, name))
