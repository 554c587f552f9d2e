"""The sentence encoder that a user brings to a training: found, made a graph where it is none, and run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.sentences.brought import find_encoder
from models.sentences.card import EncoderParts
from models.sentences.encoder import SentenceEncoder
from ops.extras import NETWORK, need
from ops.progress import Progress, Stage, silent

AT_ONCE = 128


def brought_encoder(wanted: str, progress: Progress = silent) -> EncoderParts:
    """Return an encoder as it is run: a folder, or the name of an installed package.

    Raises:
        EncoderError: there is none, or it cannot be used.
        ExtraError: it comes as arrays, and torch is not installed to make a graph of them.
    """
    progress(Stage("encoder", 0, 1))
    found = find_encoder(wanted)
    graph = None
    if found.graph is None:
        need(NETWORK, "an encoder that comes as safetensors is exported with it")
        from models.export_sentences import export_bert, network_of

        graph = export_bert(network_of(found))
    progress(Stage("encoder", 1, 1, found.card.in_words()))
    return found.parts(graph)


def vectors_of(encoder: SentenceEncoder, texts: Sequence[str], progress: Progress = silent) -> NDArray[np.float32]:
    """Return (texts, width) vectors of normalised texts, and tell of it."""
    vectors = np.zeros((len(texts), encoder.card.width), np.float32)
    for first in range(0, len(texts), AT_ONCE):
        rows = slice(first, first + AT_ONCE)
        vectors[rows] = encoder.embed(texts[rows])
        progress(Stage("sentences", min(rows.stop, len(texts)), len(texts)))
    return vectors
