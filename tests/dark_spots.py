"""A network that sees dark spots, written by hand as ONNX: what defect tests serve without training anything.

An image whose darkest cell is below brightness 60 shows a "pit", else it is "none"; evidence is how dark a cell is.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.defects import DefectCard

SIZE, CELL, LINE = 64, 8, 60.0
CARD = DefectCard(("none", "pit"), "none", SIZE, 1, 1.0, 0.2, 0.0, 20.0)


def dark_spots(scale: float = 0.1) -> bytes:
    """Return the ONNX file: logits (n, 2) are (0, (60 - darkest cell) * scale), evidence (n, 2, 8, 8) that by cell."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["first"], ["cells"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Sub", ["line", "cells"], ["darker"]),
        helper.make_node("Mul", ["darker", "scale"], ["pits"]),  # (n, 1, 8, 8)
        helper.make_node("Sub", ["pits", "pits"], ["nothing"]),
        helper.make_node("Concat", ["nothing", "pits"], ["evidence"], axis=1),
        helper.make_node("ReduceMax", ["evidence", "axes"], ["logits"], keepdims=0),
    ]
    constants = {"line": np.float32(LINE), "scale": np.float32(scale), "axes": np.array([2, 3], np.int64)}
    graph = helper.make_graph(
        nodes, "dark_spots",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", SIZE, SIZE, 1])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("evidence", TensorProto.FLOAT, ["n", 2, SIZE // CELL, SIZE // CELL]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def spotted(dark: int | None, at: tuple[int, int] = (20, 36)) -> np.ndarray:
    """Draw (64, 64) of brightness 120, with a spot of a cell's size of brightness `dark`."""
    pixels = np.full((SIZE, SIZE), 120, np.uint8)
    if dark is not None:
        row, column = (each // CELL * CELL for each in at)
        pixels[row : row + CELL, column : column + CELL] = dark
    return pixels
