"""What an exported network tells besides logits: which experts its routers chose, and where attention looks.

Nothing is computed for it: tensors that are there anyway get a name as outputs. Needs onnx, from the extra `train`.
"""

from __future__ import annotations

import onnx

CHOSEN, ATTENTION = "chosen_{}", "attention_{}"  # of layer 1, 2, ...


class OutputsError(ValueError):
    """The graph is not of the form that `models.onnx_export` makes."""


def tell_chosen(model: onnx.ModelProto, layers: int) -> None:
    """Name what the routers chose as outputs chosen_1, chosen_2, ...: (tokens of all events, k) int64 each.

    Raises:
        OutputsError: there are not as many routers as layers.
    """
    graph = model.graph
    if any(output.name == CHOSEN.format(1) for output in graph.output):
        return
    best = {output for node in graph.node if node.op_type == "ArgMax" for output in node.output}
    joined = [node for node in graph.node if node.op_type == "Concat" and set(node.input) <= best]
    # with one expert per token there is nothing to join
    found = [node.output[0] for node in joined] or [name for node in graph.node for name in node.output if name in best]
    _tell(model, found, layers, CHOSEN, onnx.TensorProto.INT64, 2)


def tell_attention(model: onnx.ModelProto, layers: int) -> None:
    """Name the shares of attention as outputs attention_1, ...: (events, heads, asking tokens, tokens) float32 each.

    Raises:
        OutputsError: there are not as many of them as layers.
    """
    found = [node.output[0] for node in model.graph.node if node.op_type == "Softmax"]
    _tell(model, found, layers, ATTENTION, onnx.TensorProto.FLOAT, 4)


def _tell(model: onnx.ModelProto, found: list[str], layers: int, name: str, kind: int, axes: int) -> None:
    if len(found) != layers:
        raise OutputsError(
            f"the graph has {len(found)} tensors that could be {name.format('N')}, and {layers} layers; export it with "
            "models.export and the torch and onnxscript versions that the project pins"
        )
    new = {old: name.format(layer) for layer, old in enumerate(found, start=1)}
    for node in model.graph.node:
        for ends in (node.input, node.output):
            for place, tensor in enumerate(ends):
                ends[place] = new.get(tensor, tensor)
    for tensor in new.values():
        sizes = [f"{tensor}_{axis}" for axis in range(axes)]  # not known before it runs
        model.graph.output.append(onnx.helper.make_tensor_value_info(tensor, kind, sizes))
