"""What the network takes of messages: rows of their grams, their pieces, and what a sentence encoder says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.text.grams import PAIRS_APART, gram_rows
from models.text.pieces import Pieces

Int64s = NDArray[np.int64]
Float32s = NDArray[np.float32]


class TextInputs(NamedTuple):
    """n messages, each array (n, as many as the longest has), 0 behind the end.

    Attributes:
        words, letters: rows of the table of grams, from 1 on; pairs of words are among the words.
        pieces: byte-pair pieces.
        sentences: (n, width) vectors of a sentence encoder; None where there is none.
    """

    words: Int64s
    letters: Int64s
    pieces: Int64s
    sentences: Float32s | None = None

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Return those that are there, as the network takes them."""
        return self[:3] if self.sentences is None else (*self[:3], self.sentences)

    def rows(self, chosen: NDArray[np.integer]) -> TextInputs:
        """Return some of the messages, without columns that are padding in all of them."""
        sentences = None if self.sentences is None else self.sentences[chosen]
        words, letters, pieces = (_narrowed(each[chosen]) for each in self[:3])
        return TextInputs(words, letters, pieces, sentences)


def make_inputs(
    cleaned: Sequence[str],
    pieces: Pieces,
    pieces_max: int,
    buckets: int,
    apart: int = PAIRS_APART,
    sentences: Float32s | None = None,
) -> TextInputs:
    """Return the inputs of normalised texts, and of their vectors if a sentence encoder reads them, too."""
    words, letters = gram_rows(cleaned, buckets, apart)
    return TextInputs(words, letters, pieces.rows(cleaned, pieces_max), sentences)


def _narrowed(rows: Int64s) -> Int64s:
    used = np.flatnonzero((rows > 0).any(axis=0))
    return rows[:, : int(used[-1]) + 1 if used.size else 1]
