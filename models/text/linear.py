"""Linear readers beside the network: one sums up weights of grams, one of a sentence's numbers; logits are added.

They err on other messages than the network does, and than each other: together they are right more often than any.
Letters: n messages, g grams of a message, s numbers in a sentence's vector, k intents.

Source: products of experts, Hinton 2002, "Training Products of Experts by Minimizing Contrastive Divergence", 1.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.text.inputs import TextInputs

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]


@dataclass(frozen=True)
class LinearReaders:
    """Weights, each already multiplied by the reader's share.

    Attributes:
        rare: (rows of grams,) how rare each is; a message's grams are scaled to length 1, words and letters apart.
        grams: (rows of grams, k).
        sentences: (s, k).
        bias: (k,) of both.
        network: what the network's logits are multiplied by.
    """

    rare: Float32s
    grams: Float32s
    sentences: Float32s
    bias: Float64s
    network: float

    def logits(self, inputs: TextInputs, network: Float64s) -> Float64s:
        """Return (n, k) logits of all readers together, from (n, k) of the network."""
        assert inputs.sentences is not None
        found: Float64s = self.network * network + inputs.sentences.astype(np.float64) @ self.sentences + self.bias
        for rows in (inputs.words, inputs.letters):
            for message, own in enumerate(rows):
                own = own[own > 0]
                found[message] += gram_values(own, self.rare) @ self.grams[own].astype(np.float64)
        return found

    def to_part(self) -> bytes:
        """Return them as a part of a bundle, grams in half precision."""
        file = io.BytesIO()
        np.savez(
            file, rare=self.rare, grams=self.grams.astype(np.float16), sentences=self.sentences, bias=self.bias,
            network=np.array(self.network),
        )  # fmt: skip
        return file.getvalue()

    @classmethod
    def from_part(cls, part: bytes) -> LinearReaders:
        """Read what `to_part` returned."""
        with np.load(io.BytesIO(part), allow_pickle=False) as arrays:
            return cls(
                arrays["rare"], arrays["grams"].astype(np.float32), arrays["sentences"], arrays["bias"],
                float(arrays["network"]),
            )  # fmt: skip


def gram_values(rows: NDArray[np.int64], rare: Float32s) -> Float64s:
    """Return the (g,) values of a message's grams: how rare they are, scaled to length 1."""
    values = rare[rows].astype(np.float64)
    return values / max(float(np.linalg.norm(values)), 1e-12)
