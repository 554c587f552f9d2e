"""Hashed n-grams of a message: runs of words, pairs of words and runs of letters, each a row of a table.

Two words tell more together than each by itself, also where others stand between them: a sum over single runs cannot
know that "card" and "still" and "not" came in one message, a sum over pairs does.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from models.text.words import char_grams, stem, words_of

WORDS_LONGEST = 3  # runs of 1 to 3 words
LETTERS_SHORTEST, LETTERS_LONGEST = 2, 5
PAIRS_APART = 16  # words from one of a pair to the other at most
WORDS_MAX, PAIRS_MAX, LETTERS_MAX = 512, 1024, 2048  # grams of a message that are read


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


def word_pairs(text: str, apart: int = PAIRS_APART) -> list[str]:
    """Return the pairs of stems of a normalised text, whichever came first, at most `apart` words from each other.

    >>> word_pairs("my card got lost", apart=2)
    ['card my', 'got my', 'card got', 'card lost', 'got lost']
    """
    stems = [stem(word) for word in words_of(text)]
    near = ((one, other) for at, one in enumerate(stems) for other in stems[at + 1 : at + 1 + apart])
    return [f"{min(pair)} {max(pair)}" for pair in near if pair[0] != pair[1]]


def gram_rows(
    texts: Sequence[str], buckets: int, apart: int = PAIRS_APART
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (texts, grams) table rows of the words and of the letters of normalised texts, each row once.

    Row 0 is padding; a gram's row is 1 + crc32 modulo `buckets`, the runs', the pairs' and the letters' apart from each
    other. The pairs are among the words; `apart` 0 leaves them out.
    """
    words = [
        _rows("w", word_grams(text)[:WORDS_MAX], buckets) | _rows("p", word_pairs(text, apart)[:PAIRS_MAX], buckets)
        for text in texts
    ]
    letters = [_rows("l", char_grams(text, LETTERS_SHORTEST, LETTERS_LONGEST)[:LETTERS_MAX], buckets) for text in texts]
    return _padded([sorted(row) for row in words]), _padded([sorted(row) for row in letters])


def _rows(kind: str, grams: Sequence[str], buckets: int) -> set[int]:
    return {1 + crc32((kind + gram).encode("utf-8", "surrogatepass")) % buckets for gram in grams}


def _padded(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    made = np.zeros((len(rows), max((len(each) for each in rows), default=0) or 1), np.int64)
    for number, row in enumerate(rows):
        made[number, : len(row)] = row
    return made
