"""The weights of a network, found again in its ONNX file: one file serves with ONNX Runtime and with torch.

The exporter folds what is constant: a matrix that is only used transposed is stored so, experts that are used one by
one are stored one by one, and of equal arrays one is kept. A file therefore says where each array of the network is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

WEIGHTS = "pelton.weights"  # array of the network -> how it is stored and under which names
SAME, TURNED, ONE_BY_ONE = "same", "turned", "one by one"
Array = NDArray[Any]
Places = dict[str, tuple[str, list[str]]]


class WeightsError(ValueError):
    """The weights cannot be had from the file; the message says why."""


def places_of(model: onnx.ModelProto, arrays: Mapping[str, Array]) -> Places | None:
    """Find where a graph has each array of a network.

    Args:
        model: the graph.
        arrays: of the network, by name.

    Returns:
        name -> how it is stored, and the initializers; None if the exporter made others of some, as it does with
        convolutions whose normalisation it folds in.
    """
    known: dict[tuple[Any, ...], str] = {}
    for each in model.graph.initializer:
        known.setdefault(_content(numpy_helper.to_array(each)), each.name)
    found: Places = {}
    for name, array in arrays.items():
        for how, pieces in _ways(array):
            names = [known.get(_content(piece)) for piece in pieces]
            if all(names):
                found[name] = (how, [each for each in names if each is not None])
                break
        else:
            return None
    return found


def read_weights(model: onnx.ModelProto) -> dict[str, Array]:
    """Return the arrays of the network that a file was made of, by name.

    Raises:
        WeightsError: the file does not say where they are, or what it says is not there: it was changed since.
    """
    notes = {note.key: note.value for note in model.metadata_props}
    if WEIGHTS not in notes:
        raise WeightsError("it does not say where its weights are; it was exported by an older version, or packed")
    stored = {each.name: each for each in model.graph.initializer}
    found = {}
    for name, (how, places) in json.loads(notes[WEIGHTS]).items():
        missing = [each for each in places if each not in stored]
        if missing:
            raise WeightsError(f"its weights were changed since it was exported: {missing[0]} is gone")
        pieces = [numpy_helper.to_array(stored[each]) for each in places]
        found[name] = np.stack(pieces) if how == ONE_BY_ONE else pieces[0] if how == SAME else pieces[0].T
    return found


def _ways(array: Array) -> list[tuple[str, list[Array]]]:
    ways = [(SAME, [array])]
    if array.ndim == 2:
        ways.append((TURNED, [array.T]))
    if array.ndim == 3:
        ways.append((ONE_BY_ONE, list(array)))
    return ways


def _content(array: Array) -> tuple[Any, ...]:
    return array.shape, array.dtype.str, np.ascontiguousarray(array).tobytes()
