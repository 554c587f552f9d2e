"""Look into an exported network: how large its parts are, which experts tokens visit, where its summary token looks.

Needs onnx, from the extra `train`. Letters: t tokens of an event, e experts, k that a token chooses.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from models.features import FeatureSpec
from models.moe.parts import PARTS, part_of
from models.moe.settings import MoESettings
from models.moe.tokens import TokenPlan, plan_tokens
from models.onnx_outputs import ATTENTION, CHOSEN, tell_attention, tell_chosen

ROWS_AT_ONCE = 256
_NUMBERS = {
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
}  # fmt: skip
# of arrays without a name, by the norm before them; those of experts that are small stand in the file one by one
_BEHIND = {"attention_norm.gain": "attention", "experts_norm.gain": "routed experts", "network.norm.gain": "head"}


@dataclass(frozen=True)
class Part:
    """A part of the network.

    Attributes:
        name: one of `models.moe.parts.PARTS`.
        numbers: learned ones, those learned from data without a gradient (codes of inputs, biases of routers) included.
        active: how many of them a token of the trunk uses; in encoder and head, an event.
        size_bytes: in the file.
    """

    name: str
    numbers: int
    active: int
    size_bytes: int


@dataclass(frozen=True)
class Seen:
    """What the network did with some events.

    Attributes:
        events: how many.
        visits: per layer (tokens, e) visits to each expert; the last layer has the summary token alone.
        attention: (layers, t) share of its attention that the summary token gives to each, mean of events and heads.
    """

    events: int
    visits: tuple[NDArray[np.int64], ...]
    attention: NDArray[np.float64]

    def load(self) -> NDArray[np.int64]:
        """Return the (layers, e) visits of all tokens."""
        return np.stack([layer.sum(axis=0) for layer in self.visits])


class Network:
    """An exported network to look into.

    Args:
        file: the bytes of the ONNX file.

    Attributes:
        settings: its sizes.
        specs: the columns that it takes; none if it reads texts or looks at images.
    """

    def __init__(self, file: bytes) -> None:
        self._model = onnx.load_from_string(file)
        self._size_bytes = len(file)
        notes = {each.key: each.value for each in self._model.metadata_props}
        self.settings = MoESettings(**json.loads(notes["pelton.sizes"]))
        self.specs = tuple(FeatureSpec(**column) for column in json.loads(notes.get("pelton.columns", "[]")))
        self._plan = plan_tokens(self.specs, self.settings) if self.specs else None

    def tokens(self) -> list[tuple[str, str]]:
        """Return name and features of each token; of texts and images none, their tokens are pieces and places."""
        return token_names(self.specs, self._plan) if self._plan is not None else []

    def parts(self) -> list[Part]:
        """Return the sizes of all parts; what is left of the file's bytes is the graph itself."""
        numbers: Counter[str] = Counter()
        active: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        owner = _owners(self._model.graph)
        for array in self._model.graph.initializer:
            part = owner[array.name]
            if part is None:
                continue
            sizes[part] += array.ByteSize()
            if array.name.endswith(".scales"):  # of weights stored as whole numbers
                continue
            count = math.prod(array.dims)
            numbers[part] += count
            active[part] += self._active(array.name, count, array.dims)
        routed = "routed experts"
        active[routed] = numbers[routed] * self.settings.chosen // self.settings.experts
        return [Part(each, numbers[each], active[each], sizes[each]) for each in PARTS]

    def _active(self, name: str, count: int, dims: Sequence[int]) -> int:
        if name.endswith(".table"):  # one row for each category of an event, or for a gram of a text
            return dims[1] * (dims[0] // (self.settings.buckets + 1) if self.specs else 1)
        return count

    def look(self, features: NDArray[np.float64], tell: Callable[[int], object] = lambda done: None) -> Seen:
        """Let the network score (events, columns), and watch; `tell` is told how many are done.

        Raises:
            ValueError: it takes no columns.
        """
        if self._plan is None:
            raise ValueError("the network reads texts or looks at images; only one that takes features can be watched")
        layers, experts = self.settings.layers, self.settings.experts
        session = self._watched()
        names = [name.format(layer) for name in (CHOSEN, ATTENTION) for layer in range(1, layers + 1)]
        visits: list[NDArray[np.int64]] = []
        attention = np.zeros((layers, self._plan.tokens))
        for first in range(0, len(features), ROWS_AT_ONCE):
            part = np.ascontiguousarray(features[first : first + ROWS_AT_ONCE])
            found = session.run(names, {"features": part})
            for layer, chosen in enumerate(found[:layers]):
                tokens = len(chosen) // len(part)
                place = np.arange(tokens)[None, :, None] * experts + chosen.reshape(len(part), tokens, -1)
                counted = np.bincount(place.ravel(), minlength=tokens * experts).reshape(tokens, experts)
                if len(visits) == layer:
                    visits.append(counted)
                else:
                    visits[layer] += counted
            for layer, share in enumerate(found[layers:]):  # (events, heads, asking, t); the summary asks first
                attention[layer] += share[:, :, 0].mean(axis=1, dtype=np.float64).sum(axis=0)
            tell(first + len(part))
        return Seen(len(features), tuple(visits), attention / max(len(features), 1))

    def _watched(self) -> onnxruntime.InferenceSession:
        copied = onnx.ModelProto()
        copied.CopyFrom(self._model)
        tell_chosen(copied, self.settings.layers)
        tell_attention(copied, self.settings.layers)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        return onnxruntime.InferenceSession(copied.SerializeToString(), options, providers=["CPUExecutionProvider"])


def token_names(specs: Sequence[FeatureSpec], plan: TokenPlan) -> list[tuple[str, str]]:
    """Return a name and the features of each token, in the network's order: the summary, groups, the sequence."""
    found = [("summary", "asks for the answer")]
    for group in plan.groups:
        names = list(dict.fromkeys(specs[column].group for column in group))
        found.append((" + ".join(filter(None, names)) or "event", ", ".join(specs[column].name for column in group)))
    steps = range(1, plan.sequence_tokens * plan.steps_per_token + 1, plan.steps_per_token)
    for first in steps:
        last = min(first + plan.steps_per_token - 1, len(plan.channels[0].columns))
        columns = [column for each in plan.channels for column in each.columns[first - 1 : last] if column is not None]
        name = f"event {first} before" if first == last else f"events {first} to {last} before"
        found.append((name, ", ".join(specs[column].name for column in columns)))
    return found


def _owners(graph: onnx.GraphProto) -> dict[str, str | None]:
    """Return the part of each array; None for constants.

    The export folds some weights into arrays without a name. They belong to the part that their input comes from.
    """
    makers = {name: node for node in graph.node for name in node.output}
    users: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, node)
    arrays = {array.name: array for array in graph.initializer}

    def is_learned(name: str) -> bool:  # the export joins equal constants, also under the name of an array of ours
        return name.startswith("network.") and arrays[name].data_type in _NUMBERS

    def nearest(name: str) -> str:
        waiting, seen = [users[name]], set()
        while waiting:
            node = waiting.pop(0)
            for tensor in node.input:
                if is_learned(tensor):
                    behind = [part for mark, part in _BEHIND.items() if tensor.endswith(mark)]
                    return behind[0] if behind else part_of(tensor.removeprefix("network."))
                if tensor in makers and makers[tensor].op_type != "Shape" and tensor not in seen:
                    seen.add(tensor)
                    waiting.append(makers[tensor])
        return "head"

    found: dict[str, str | None] = {}
    for name, array in arrays.items():
        if array.data_type not in _NUMBERS:
            found[name] = None
        elif name.startswith("network."):
            found[name] = part_of(name.removeprefix("network."))
        else:
            found[name] = nearest(name) if name in users and math.prod(array.dims) > 1 else None
    return found
