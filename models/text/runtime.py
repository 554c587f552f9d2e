"""Serve an exported text network."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from models.runtimes import Gpu, RuntimeRefusedError, open_network
from models.text.inputs import TextInputs

NAMES = TextInputs._fields
TEXT = "pelton.text"  # what a model says of the texts that it takes


class OnnxText:
    """An exported text network. One instance may be used by several threads at once.

    Attributes:
        provider: what really computes: "cpu" or "cuda".
        buckets, pieces_max: rows of its table of grams, and how many pieces of a message it takes.
        pairs_apart: words between those that it reads as pairs; 0 of a network that was trained without pairs.

    Raises:
        RuntimeRefusedError: it is no model that can be served here.
    """

    def __init__(self, model: bytes, threads: int = 1, gpu: Gpu = "never") -> None:
        self._runtime = open_network(model, threads, gpu)
        self.provider = self._runtime.provider
        notes = self._runtime.notes
        if TEXT not in notes:
            raise RuntimeRefusedError("the model does not read texts; export it with models.export_texts")
        told = json.loads(notes[TEXT])
        self.buckets, self.pieces_max = int(told["buckets"]), int(told["pieces_max"])
        self.pairs_apart = int(told.get("pairs_apart", 0))

    def logits(self, inputs: TextInputs) -> NDArray[np.float64]:
        """Return (messages, classes) logits.

        Raises:
            ValueError: one is not finite.
        """
        logits = self._runtime.run(["logits"], dict(zip(NAMES, inputs, strict=True)))[0].astype(np.float64)
        if not np.isfinite(logits).all():
            row = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
            raise ValueError(f"the model scored message {row} as not finite; its weights are broken, roll it back")
        return logits
