"""What the network takes of messages: rows of their grams, and their pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.text.grams import PAIRS_APART, gram_rows
from models.text.pieces import Pieces

Int64s = NDArray[np.int64]


class TextInputs(NamedTuple):
    """n messages, each array (n, as many as the longest has), 0 behind the end.

    Attributes:
        words, letters: rows of the table of grams, from 1 on; pairs of words are among the words.
        pieces: byte-pair pieces.
    """

    words: Int64s
    letters: Int64s
    pieces: Int64s

    def rows(self, chosen: NDArray[np.integer]) -> TextInputs:
        """Return some of the messages, without columns that are padding in all of them."""
        return TextInputs(*(_narrowed(each[chosen]) for each in self))


def make_inputs(
    cleaned: Sequence[str], pieces: Pieces, pieces_max: int, buckets: int, apart: int = PAIRS_APART
) -> TextInputs:
    """Return the inputs of normalised texts."""
    words, letters = gram_rows(cleaned, buckets, apart)
    return TextInputs(words, letters, pieces.rows(cleaned, pieces_max))


def _narrowed(rows: Int64s) -> Int64s:
    used = np.flatnonzero((rows > 0).any(axis=0))
    return rows[:, : int(used[-1]) + 1 if used.size else 1]
