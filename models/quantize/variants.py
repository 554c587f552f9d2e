"""The forms of a network that are measured side by side; the last ones change the routed experts alone."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx.helper import make_node

from models.quantize.graph import NEVER, Graph, Layer, pruned, visitors
from models.quantize.packing import Rounded, interleaved, packed, rounded, swiglu

Float64s = NDArray[np.float64]
GROUP = 32  # rows that share a scale where groups are used
FP32 = "fp32"
RANGE_ROWS = 1_000  # from which static quantisation learns the ranges of activations


@dataclass(frozen=True)
class Variant:
    """A form of the network.

    Attributes:
        name: as `--variant` takes it.
        what: in words.
        build: from the fp32 model and calibration rows.
        standard: whether it has standard operators alone, which every runtime and device computes.
    """

    name: str
    what: str
    build: Callable[[onnx.ModelProto, Float64s], onnx.ModelProto]
    standard: bool


def _as_it_is(model: onnx.ModelProto, rows: Float64s) -> onnx.ModelProto:
    return pruned(model)


def _static(model: onnx.ModelProto, rows: Float64s) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(np.array_split(rows, -(-len(rows) // 64)))

        def get_next(self) -> dict[str, Float64s] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"features": np.ascontiguousarray(batch)}

    rows = rows[-RANGE_ROWS:]
    with _folded(model) as (before, after):
        quantize_static(
            before, after, Reader(), per_channel=True, op_types_to_quantize=["MatMul", "Gemm"],
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return onnx.load(after)


def _dynamic(model: onnx.ModelProto, rows: Float64s) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _folded(model) as (before, after):
        quantize_dynamic(before, after, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        return onnx.load(after)


def _int4(model: onnx.ModelProto, rows: Float64s) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with _folded(model) as (before, _):
        quantiser = MatMulNBitsQuantizer(onnx.load(before), bits=4, block_size=GROUP, is_symmetric=True)
        quantiser.process()
        return quantiser.model.model


def _stored(model: onnx.ModelProto, rows: Float64s) -> onnx.ModelProto:
    """Keep the graph; Cast and Mul make its expert weights from int8, once, when ONNX Runtime folds constants."""
    graph = Graph(model)
    for layer, arrays in zip(graph.layers, _in_int8(graph, rows, None), strict=True):
        for name, given in zip((layer.up, layer.down), arrays, strict=True):
            levels, scales = graph.add(f"{name}.levels", given.levels), graph.add(f"{name}.scales", given.scales)
            graph.remove_initializer(name)
            graph.compute(
                name,
                [
                    make_node("Cast", [levels], [f"{name}.float"], to=onnx.TensorProto.FLOAT),
                    make_node("Mul", [f"{name}.float", scales], [name]),
                ],
            )
    return pruned(graph.model)


def _fused(model: onnx.ModelProto, rows: Float64s) -> onnx.ModelProto:
    graph = Graph(model)
    for layer in graph.layers:
        up = graph.add(f"{layer.up}.t", interleaved(graph.array(layer.up)).transpose(0, 2, 1))
        down = graph.add(f"{layer.down}.t", graph.array(layer.down).transpose(0, 2, 1))
        _replace(graph, layer, "MoE", [up, "", down], {})
    return pruned(graph.model)


def _fused_int8(group: int | None) -> Callable[[onnx.ModelProto, Float64s], onnx.ModelProto]:
    def build(model: onnx.ModelProto, rows: Float64s) -> onnx.ModelProto:
        graph = Graph(model)
        for layer, (up, down) in zip(graph.layers, _in_int8(graph, rows, group), strict=True):
            inputs = []
            for name, given in ((layer.up, interleaved(up)), (layer.down, down)):
                levels, scales = packed(given)
                inputs += [graph.add(f"{name}.levels", levels), graph.add(f"{name}.scales", scales), ""]
            groups = {"block_size": group} if group else {}
            _replace(graph, layer, "QMoE", inputs[:-1], {"expert_weight_bits": 8} | groups)
        return pruned(graph.model)

    return build


def _in_int8(graph: Graph, rows: Float64s, group: int | None) -> list[tuple[Rounded, Rounded]]:
    """Round each layer's experts, up and down, for what their visitors bring."""
    found = []
    for layer, (seen, ids) in zip(graph.layers, visitors(graph, rows), strict=True):
        up, down = graph.array(layer.up), graph.array(layer.down)
        each = [seen[(ids == expert).any(axis=1)] for expert in range(len(up))]
        hidden = [swiglu(visits, own) for visits, own in zip(each, up, strict=True)]
        found.append((rounded(up, 8, group, each), rounded(down, 8, group, hidden)))
    return found


def _replace(graph: Graph, layer: Layer, operator: str, inputs: list[str], more: dict[str, int]) -> None:
    """Let one operator compute the routed experts, with exactly the experts and weights that the router chose.

    The operator chooses by itself, from scores of its own kind; it is given the logarithms of the weights of those that
    were chosen, whose softmax gives the weights again, and of the others one that softmax makes 0.
    """
    graph.use_contrib()
    prefix = layer.routed
    nodes = [
        make_node("Shape", [layer.scores], [f"{prefix}.shape"]),
        make_node(
            "ConstantOfShape", [f"{prefix}.shape"], [f"{prefix}.never"],
            value=onnx.numpy_helper.from_array(np.array([NEVER], np.float32)),
        ),
        make_node("Log", [layer.weights], [f"{prefix}.log"]),
        make_node("ScatterElements", [f"{prefix}.never", layer.ids, f"{prefix}.log"], [f"{prefix}.chosen"], axis=1),
        make_node(
            operator, [layer.rows, f"{prefix}.chosen", *inputs], [layer.routed], domain="com.microsoft", k=graph.chosen,
            activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.0, activation_beta=0.0,
            normalize_routing_weights=1, **more,
        ),
    ]  # fmt: skip
    graph.compute(layer.routed, nodes)


@contextlib.contextmanager
def _folded(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Give the path of a file in which constants are folded, as ONNX Runtime's quantisers want it, and one to write."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="pelton-") as folder:
        before, after = str(Path(folder) / "before.onnx"), str(Path(folder) / "after.onnx")
        options.optimized_model_filepath = before
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        logging.disable(logging.WARNING)  # they advise a preparation that was just made
        try:
            yield before, after
        finally:
            logging.disable(logging.NOTSET)


VARIANTS = (
    Variant(FP32, "as it was trained", _as_it_is, True),
    Variant("static-int8", "every product in int8, ranges of activations from calibration rows", _static, True),
    Variant("dynamic-int8", "every product in int8, ranges of activations from each batch", _dynamic, True),
    Variant("int4", "weights of every product in int4, groups of 32", _int4, False),
    Variant("experts-fused", "experts in fp32, ONNX Runtime's MoE operator", _fused, False),
    Variant("experts-int8", "experts stored in int8, computed in fp32", _stored, True),
    Variant("experts-int8-fused", "experts in int8, ONNX Runtime's QMoE operator", _fused_int8(None), False),
    Variant("experts-int8-groups", "experts and their inputs in int8, a scale per 32 rows", _fused_int8(GROUP), False),
)
