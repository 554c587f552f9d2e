"""Serve an exported text network."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from models.expert_load import load_for
from models.runtimes import Gpu, RuntimeRefusedError, open_network
from models.text.inputs import TextInputs

NAMES = TextInputs._fields
TEXT = "pelton.text"  # what a model says of the texts that it takes


class OnnxText:
    """An exported text network. One instance may be used by several threads at once.

    Attributes:
        provider: what really computes: "cpu" or "cuda".
        buckets, pieces_max: rows of its table of grams, and how many pieces of a message it takes.
        load: visits of the messages that were counted, their padding left out; None if the file does not tell them.
        pairs_apart: words between those that it reads as pairs; 0 of a network that was trained without pairs.
        sentence: numbers in a vector of the sentence encoder that it was trained with; 0 without one.

    Raises:
        RuntimeRefusedError: it is no model that can be served here.
    """

    def __init__(self, model: bytes, threads: int = 1, gpu: Gpu = "never") -> None:
        self._runtime = open_network(model, threads, gpu)
        self.provider = self._runtime.provider
        notes = self._runtime.notes
        self.load, chosen = load_for(notes, self._runtime.outputs)
        self._all_outputs = ["logits", *chosen]
        if TEXT not in notes:
            raise RuntimeRefusedError("the model does not read texts; export it with models.export_texts")
        told = json.loads(notes[TEXT])
        self.buckets, self.pieces_max = int(told["buckets"]), int(told["pieces_max"])
        self.pairs_apart, self.sentence = int(told.get("pairs_apart", 0)), int(told.get("sentence", 0))

    def logits(self, inputs: TextInputs, counted: bool = False) -> NDArray[np.float64]:
        """Return (messages, classes) logits.

        Args:
            inputs: of the messages.
            counted: whether their visits are added to `load`: they are served, not only looked at.

        Raises:
            ValueError: one is not finite.
        """
        outputs = self._all_outputs if counted else ["logits"]
        answer, *chosen = self._runtime.run(outputs, dict(zip(NAMES, inputs.arrays(), strict=False)))
        if self.load is not None and chosen:
            self.load.add_visits([_of_present(each, inputs.pieces) for each in chosen], len(inputs.pieces))
        logits = answer.astype(np.float64)
        if not np.isfinite(logits).all():
            row = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
            raise ValueError(f"the model scored message {row} as not finite; its weights are broken, roll it back")
        return logits


def _of_present(chosen: NDArray[np.int64], pieces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the choices of tokens that are no padding: of each message those before its pieces, and its pieces.

    The last layer computes the summary alone, which is always there.
    """
    tokens = len(chosen) // len(pieces)
    if tokens == 1:
        return chosen
    present = np.ones((len(pieces), tokens), np.bool_)
    present[:, tokens - pieces.shape[1] :] = pieces > 0
    return chosen[present.ravel()]
