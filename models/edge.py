"""A network in a quarter of its size: large weights stored in 8 bits, computed in 32. Needs onnx.

Each output of a matrix or convolution has a scale of its own, per expert: w ~ scale * q, q from -127 to 127. The
runtime unpacks weights once, when it opens the file, so that a run costs what it did. Routers keep their 32 bits: which
expert an image visits must not turn on a rounding.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

SMALL = 1024  # numbers; fewer stay as they are


def in_eight_bits(network: bytes) -> bytes:
    """Return the ONNX file with its large weights in 8 bits; inputs and outputs stay the same."""
    model = onnx.load_from_string(network)
    graph = model.graph
    convolved = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    kept, unpacking = [], []
    for each in graph.initializer:
        values = numpy_helper.to_array(each)
        if values.dtype != np.float32 or values.ndim < 2 or values.size < SMALL or "router" in each.name:
            kept.append(each)
            continue
        # a convolution's outputs come first, a matrix's last; what is before them in experts is e experts
        summed = tuple(range(1, values.ndim)) if each.name in convolved else (values.ndim - 2,)
        packed, scale = _packed(values, summed)
        kept += [
            numpy_helper.from_array(packed, f"{each.name}.q"),
            numpy_helper.from_array(scale, f"{each.name}.scale"),
        ]
        unpacking += [
            helper.make_node("Cast", [f"{each.name}.q"], [f"{each.name}.whole"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [f"{each.name}.whole", f"{each.name}.scale"], [each.name]),
        ]
    nodes = [*unpacking, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _packed(values: NDArray[np.float32], summed: tuple[int, ...]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    scale = np.maximum(np.abs(values).max(axis=summed, keepdims=True), 1e-12) / np.float32(127)
    return np.rint(values / scale).astype(np.int8), scale.astype(np.float32)
