"""Serve an exported network with torch: on a GPU its sparse layers run on the kernels of `kernels.moe`.

The network is made anew from what its ONNX file says of itself, and gets the weights that lie in that file: nothing
else has to be stored or trusted. Batches of a size that came before are replayed as a CUDA graph, which saves the time
to launch some hundred small kernels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.export import FORM
from models.features import FeatureSpec
from models.moe.network import MoENetwork, event_network
from models.moe.settings import MoESettings
from models.onnx_weights import WeightsError, read_weights

GRAPHS_MAX = 32  # sizes of batches that are kept as graphs; others are computed kernel by kernel


class TorchRuntime:
    """A network on event features in torch; see `models.runtimes.Runtime`. It tells no visits of experts.

    Args:
        model: the bytes of an ONNX file.
        device: "cuda"; "cpu" computes the same without our kernels, for comparison.

    Raises:
        WeightsError: the file does not hold the weights as they were trained, or is of another kind of network.
    """

    def __init__(self, model: bytes, device: str) -> None:
        graph = onnx.load_model_from_string(model)
        self.provider = "triton" if device == "cuda" else f"torch-{device}"
        self.notes: Mapping[str, str] = {note.key: note.value for note in graph.metadata_props}
        self.outputs: Sequence[str] = list(FORM.outputs)
        self._device = torch.device(device)
        self._network = _network(self.notes, read_weights(graph)).to(self._device)
        self._graphs: dict[tuple[int, ...], _Captured] = {}
        self._lock = Lock()  # a graph has one place for its inputs

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs named; see `models.runtimes.Runtime.run`."""
        given = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in FORM.inputs]
        with self._lock, torch.inference_mode():
            answers = self._computed(given)
            by_name = dict(zip(FORM.outputs, answers, strict=True))
            return [by_name[name].cpu().numpy() for name in outputs]

    def _computed(self, given: list[Tensor]) -> Sequence[Tensor]:
        if self._device.type != "cuda":
            return FORM.answer(self._network, *given)
        sizes = tuple(size for each in given for size in each.shape)
        if sizes not in self._graphs and len(self._graphs) < GRAPHS_MAX:
            self._graphs[sizes] = _Captured(self._network, given, self._device)
        if sizes in self._graphs:
            return self._graphs[sizes].replayed(given)
        return FORM.answer(self._network, *(each.to(self._device) for each in given))


class _Captured:
    """What the GPU does with batches of one size, recorded once.

    While it is recorded no answer can be looked at, so rows that the router refuses come out as NaN (see
    `kernels.moe.entry`), which whoever asked takes for what it is.
    """

    def __init__(self, network: MoENetwork, given: list[Tensor], device: torch.device) -> None:
        self._inputs = [each.to(device) for each in given]
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):  # kernels are compiled and libraries opened before anything is recorded
            FORM.answer(network, *self._inputs)
        torch.cuda.current_stream(device).wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._answers = FORM.answer(network, *self._inputs)

    def replayed(self, given: list[Tensor]) -> Sequence[Tensor]:
        """Compute a batch; the answers hold until the next one."""
        for place, values in zip(self._inputs, given, strict=True):
            place.copy_(values)
        self._graph.replay()
        return self._answers


def _network(notes: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> MoENetwork:
    """Make the network that a file was exported from."""
    if "pelton.columns" not in notes:
        raise WeightsError("it reads no event features; ONNX Runtime computes it")
    specs = [FeatureSpec(**column) for column in json.loads(notes["pelton.columns"])]
    network = event_network(specs, MoESettings(**json.loads(notes["pelton.sizes"])))
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    return network.eval()
