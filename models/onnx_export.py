"""Turn the network of one task into an ONNX file of standard operators, and refuse to if it does not compute the same.

Experts are served by sorting tokens by expert and splitting with run-time sizes, so that any batch size is exact and no
expert idles work. Beside its answers a graph tells which experts the tokens visited (`models.onnx_outputs`). What it
takes and gives is said by `models.export` (events), `models.export_texts` and `models.export_images`.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from models.moe.network import MoENetwork
from models.onnx_outputs import tell_chosen
from models.onnx_weights import WEIGHTS, places_of
from models.runtimes import open_session

LARGEST_DIFFERENCE = 1e-5  # of an answer between torch and ONNX Runtime, in fp32
LARGEST_BYTES = 12_000_000
OPSET = 20
Inputs = Sequence[NDArray[Any]]  # of a batch, in the order of `Form.inputs`


class ExportError(ValueError):
    """The exported graph must not be served: too large, or it computes something else."""


@dataclass(frozen=True)
class Form:
    """What the graph of a network takes and gives.

    Attributes:
        answer: what the graph has to compute: of a network and its inputs, a tensor for each output.
        inputs: name of each input -> names of those of its axes, the first ones, whose sizes are known at run time.
        outputs: their names.
        by_size: whether a difference is relative to the largest answer of a batch, where that is above 1.
    """

    answer: Callable[..., tuple[Tensor, ...]]
    inputs: Mapping[str, Sequence[str]]
    outputs: Sequence[str]
    by_size: bool


@dataclass(frozen=True)
class Probes:
    """What a graph is tried on.

    Attributes:
        cases: inputs by name.
        routed: those that routers bent to hard cases get, too: a batch of one among them, and padding where there is
            such a thing.
    """

    cases: Mapping[str, Inputs]
    routed: Mapping[str, Inputs]


@dataclass(frozen=True)
class Exported:
    """A file that passed the gate.

    Attributes:
        file: the bytes of the ONNX file.
        differences: per output and check, the largest difference between torch and ONNX Runtime.
    """

    file: bytes
    differences: dict[str, float]

    def in_words(self) -> str:
        """Say how large it is, and how exact."""
        return f"{len(self.file) / 1e6:.1f} MB, equal to torch within {max(self.differences.values()):.0e}"


class _Graph(nn.Module):
    def __init__(self, network: nn.Module, form: Form) -> None:
        super().__init__()
        self.network, self.form = network, form

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        return self.form.answer(self.network, *inputs.values())


def to_onnx(network: MoENetwork, form: Form, sample: Sequence[Tensor], notes: Mapping[str, object]) -> onnx.ModelProto:
    """Make the graph.

    Args:
        network: of one task, on the CPU.
        form: of the graph.
        sample: inputs of a few examples.
        notes: what the file says of itself beside its sizes, name -> what goes into JSON.

    Raises:
        ExportError: the torch and onnxscript at hand make another graph than expected.
    """
    _set_exporting(network, True)
    try:
        model = plain_onnx(network, form, sample, {})
    finally:
        _set_exporting(network, False)
    _rename(model, _names(network))
    told = {**notes, "pelton.sizes": asdict(network.settings)}
    if places := places_of(model, {name: array.numpy() for name, array in network.state_dict().items()}):
        told[WEIGHTS] = places
    onnx.helper.set_model_props(model, {name: json.dumps(note) for name, note in told.items()})
    tell_chosen(model, network.settings.layers)
    return model


def plain_onnx(
    network: nn.Module, form: Form, sample: Sequence[Tensor], notes: Mapping[str, object]
) -> onnx.ModelProto:
    """Make the graph of any network, without what only experts have; else as `to_onnx`.

    Raises:
        ExportError: an operator is not a standard one.
    """
    model = _translated(network, form, sample)
    del model.graph.value_info[:]  # the placeholder shapes of the split are in there, and wrong
    del model.functions[:]
    for node in model.graph.node:  # names and stack traces of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {name: json.dumps(note) for name, note in notes.items()})
    foreign = sorted({node.domain for node in model.graph.node} - {""})
    if foreign:
        raise ExportError(f"the graph uses operators of {', '.join(foreign)}; only standard ones run everywhere")
    return model


def _translated(network: nn.Module, form: Form, sample: Sequence[Tensor]) -> onnx.ModelProto:
    sizes = {name: torch.export.Dim(name) for axes in form.inputs.values() for name in axes}
    shapes = {each: {axis: sizes[name] for axis, name in enumerate(axes)} for each, axes in form.inputs.items()}
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # it warns that torchvision is missing, which nobody here needs
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "# The axis name: ", UserWarning)  # inputs share one on purpose
            program = torch.onnx.export(
                _Graph(network, form).eval(), kwargs=dict(zip(form.inputs, sample, strict=True)),
                input_names=list(form.inputs), output_names=list(form.outputs), dynamic_shapes={"inputs": shapes},
                opset_version=OPSET, dynamo=True, verbose=False,
            )  # fmt: skip
    finally:
        registration.setLevel(level)
    if program is None:
        raise ExportError("torch gave no ONNX program; check that torch and onnxscript belong together")
    return program.model_proto


def _set_exporting(network: MoENetwork, on: bool) -> None:
    for block in network.trunk.blocks:
        block.experts.exporting = on


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


def check_size(size_bytes: int) -> None:
    """Refuse a file that is too large for a bundle.

    Raises:
        ExportError: it is.
    """
    if size_bytes > LARGEST_BYTES:
        raise ExportError(
            f"the ONNX file would have {size_bytes:,} bytes, more than {LARGEST_BYTES:,}; "
            "choose fewer experts, a smaller width or fewer buckets"
        )


def checked(network: MoENetwork, model: onnx.ModelProto, form: Form, probes: Probes) -> Exported:
    """Return the file if it computes what torch does.

    It is tried with the routers as they are, then with routers bent so that ties, idle and crowded experts are sure to
    occur.

    Args:
        network: that the graph was made of.
        model: the graph.
        form: of it.
        probes: inputs to try it on.

    Raises:
        ExportError: the file would be over 12 MB, or an answer differs by more than 1e-5 from torch.
    """
    differences = _differences(network, model, form, probes.cases)
    for name, bend in (("ties", _tie), ("an empty expert", _empty), ("all to one expert", _crowd)):
        bent = copy.deepcopy(network)
        for router in bent.routers():
            bend(router)
        hard = {f"{name}, {case}": inputs for case, inputs in probes.routed.items()}
        differences |= _differences(bent, _with_routers_of(bent, network, model), form, hard)
    return _passed(model, differences)


def checked_plain(network: nn.Module, model: onnx.ModelProto, form: Form, probes: Probes) -> Exported:
    """Return the file of a network without routers if it computes what torch does.

    Raises:
        ExportError: as in `checked`.
    """
    return _passed(model, _differences(network, model, form, probes.cases))


def _passed(model: onnx.ModelProto, differences: dict[str, float]) -> Exported:
    onnx.checker.check_model(model)
    check_size(model.ByteSize())
    worst = max(differences, key=lambda name: differences[name])
    if not differences[worst] <= LARGEST_DIFFERENCE:
        raise ExportError(
            f"ONNX Runtime and torch differ by {differences[worst]:.2g} in {worst}; "
            f"{LARGEST_DIFFERENCE:.0e} is allowed, so nothing was written"
        )
    return Exported(model.SerializeToString(), differences)


def _differences(
    network: nn.Module, model: onnx.ModelProto, form: Form, cases: Mapping[str, Inputs]
) -> dict[str, float]:
    session, _ = open_session(model.SerializeToString(), threads=1, gpu="never")
    found = {}
    for case, inputs in cases.items():
        arrays = [np.ascontiguousarray(each) for each in inputs]
        with torch.no_grad():
            answers = form.answer(network, *map(torch.from_numpy, arrays))
        told = session.run(list(form.outputs), dict(zip(form.inputs, arrays, strict=True)))
        for output, answer, got in zip(form.outputs, answers, told, strict=True):
            expected = answer.double().numpy()
            difference = float(np.abs(got - expected).max())
            if form.by_size:
                difference /= max(1.0, float(np.abs(expected).max()))
            found[f"{output}, {case}"] = difference if np.isfinite(difference) else float("inf")
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
