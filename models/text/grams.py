"""Hashed n-grams of a message: runs of words and runs of letters, each a row of a table, whatever the language."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from models.text.words import char_grams, words_of

WORDS_LONGEST = 3  # runs of 1 to 3 words
LETTERS_SHORTEST, LETTERS_LONGEST = 2, 5
WORDS_MAX, LETTERS_MAX = 512, 2048  # grams of a message that are read


def word_grams(text: str) -> list[str]:
    """Return the runs of 1 to 3 words of a normalised text.

    >>> word_grams("lost my card")
    ['lost', 'my', 'card', 'lost my', 'my card', 'lost my card']
    """
    words = words_of(text)
    return [
        " ".join(words[at : at + length])
        for length in range(1, WORDS_LONGEST + 1)
        for at in range(len(words) - length + 1)
    ]


def gram_rows(texts: Sequence[str], buckets: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (texts, grams) table rows of the words and of the letters of normalised texts, each row once.

    Row 0 is padding; a gram's row is 1 + crc32 modulo `buckets`, the words' and the letters' apart from each other.
    """
    words = [_rows("w", word_grams(text)[:WORDS_MAX], buckets) for text in texts]
    letters = [_rows("l", char_grams(text, LETTERS_SHORTEST, LETTERS_LONGEST)[:LETTERS_MAX], buckets) for text in texts]
    return _padded(words), _padded(letters)


def _rows(kind: str, grams: Sequence[str], buckets: int) -> list[int]:
    return sorted({1 + crc32((kind + gram).encode("utf-8", "surrogatepass")) % buckets for gram in grams})


def _padded(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    made = np.zeros((len(rows), max((len(each) for each in rows), default=0) or 1), np.int64)
    for number, row in enumerate(rows):
        made[number, : len(row)] = row
    return made
