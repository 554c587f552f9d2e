"""Export a network on images as one ONNX file of standard operators, and refuse to if it does not compute the same.

The graph takes uint8 pixels (n, s, s, c) and gives logits (n, k) and evidence by place (n, k, g, g).
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.export import LARGEST_BYTES, LARGEST_DIFFERENCE, OPSET, ExportError
from models.moe.image import read_images
from models.moe.network import MoENetwork, cut_out
from models.onnx_outputs import tell_chosen

Pixels = NDArray[np.uint8]
BATCHES = (1, 3, 8)


class _Graph(nn.Module):
    def __init__(self, network: MoENetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # (n, s, s, c) uint8
        logits, evidence, _ = read_images(self.network, images)
        return logits, evidence


def export_images(network: MoENetwork, pixels: Pixels, task: str | None = None) -> tuple[bytes, float]:
    """Return the ONNX file of a task on images, and the largest difference to torch that was seen.

    Args:
        network: trained; it is copied to the CPU and left as it is.
        pixels: (images, s, s, c) real ones for the parity gate, at least one; flat, extreme and random ones are added.
        task: on images; may be left out where there is one only.

    Raises:
        ExportError: the file would be over 12 MB, or a logit or evidence differs by more than 1e-5 of its size.
    """
    if not len(pixels):
        raise ExportError("the parity gate got no images; give it at least one")
    network = cut_out(network, task).cpu().eval()
    model = _to_onnx(network, torch.from_numpy(pixels[:1]).repeat(3, 1, 1, 1))
    if model.ByteSize() > LARGEST_BYTES:
        raise ExportError(f"the ONNX file would have {model.ByteSize():,} bytes, more than {LARGEST_BYTES:,}")
    differences = _gate(network, model, pixels)
    worst = max(differences, key=lambda name: differences[name])
    if not differences[worst] <= LARGEST_DIFFERENCE:
        raise ExportError(
            f"ONNX Runtime and torch differ by {differences[worst]:.2g} ({worst}); {LARGEST_DIFFERENCE:.0e} is "
            "allowed, so nothing was written"
        )
    return model.SerializeToString(), differences[worst]


def _to_onnx(network: MoENetwork, sample: Tensor) -> onnx.ModelProto:
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # it warns that torchvision is missing, which nobody here needs
    _set_exporting(network, True)
    try:
        program = torch.onnx.export(
            _Graph(network).eval(), (sample,), input_names=["images"], output_names=["logits", "evidence"],
            dynamic_shapes=({0: torch.export.Dim("count")},), opset_version=OPSET, dynamo=True, verbose=False,
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
    onnx.helper.set_model_props(model, {"pelton.sizes": json.dumps(asdict(network.settings))})
    tell_chosen(model, network.settings.layers)
    foreign = sorted({node.domain for node in model.graph.node} - {""})
    if foreign:
        raise ExportError(f"the graph uses operators of {', '.join(foreign)}; only standard ones run everywhere")
    onnx.checker.check_model(model)
    return model


def _set_exporting(network: MoENetwork, on: bool) -> None:
    for block in network.trunk.blocks:
        block.experts.exporting = on


def _gate(network: MoENetwork, model: onnx.ModelProto, pixels: Pixels) -> dict[str, float]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    chance = np.random.default_rng(0)
    shape = (max(BATCHES), *pixels.shape[1:])
    real = pixels[chance.integers(0, len(pixels), shape[0])]
    cases = {f"batch {n}": real[:n] for n in BATCHES}
    cases["random"] = chance.integers(0, 256, shape).astype(np.uint8)
    cases["black and white"] = np.where(chance.random(shape) < 0.5, 0, 255).astype(np.uint8)
    cases["flat, ties between experts"] = np.full(shape, 127, np.uint8)
    found = {}
    for name, images in cases.items():
        with torch.no_grad():
            logits, evidence, _ = read_images(network, torch.from_numpy(images))
        told = session.run(["logits", "evidence"], {"images": images})
        for what, expected, got in (("logits", logits, told[0]), ("evidence", evidence, told[1])):
            size = max(1.0, float(expected.abs().max()))  # evidence is a mean of 256 places: its own size is larger
            difference = float(np.abs(expected.numpy() - got).max()) / size
            found[f"{what}, {name}"] = difference if np.isfinite(difference) else float("inf")
    return found
