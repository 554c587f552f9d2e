"""Byte-pair pieces: words cut into parts that are frequent in the texts learned from, down to single bytes.

Nothing is unknown and nothing is lost: the pieces of a text, put together, are the text again.

Source: Sennrich, Haddow, Birch 2016 (arXiv:1508.07909), algorithm 1; on bytes: Radford et al. 2019 (GPT-2), 2.2.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

FIRST_BYTE, FIRST_MERGE = 1, 257  # 0 is padding
WORDS_KEPT = 65_536  # whose pieces are remembered
WORD_BYTES_MAX = 64  # a longer run is cut there, so that no word takes long
_WORDS = re.compile(r" ?\w+| ?[^\w\s]+|\s+")
Pair = tuple[int, int]


class Pieces:
    """Cuts texts into pieces and puts them together again.

    Args:
        merges: pairs of pieces that are one piece, the most frequent first; the n-th makes piece FIRST_MERGE + n.

    >>> pieces = Pieces.learned(["low lower lowest low"] * 4, 260)
    >>> pieces.encode("low")
    [258]
    >>> pieces.decode(pieces.encode("slow ☂"))
    'slow ☂'
    """

    def __init__(self, merges: Sequence[Pair]) -> None:
        self.merges = [(int(left), int(right)) for left, right in merges]
        self._rank = {pair: rank for rank, pair in enumerate(self.merges)}
        self._bytes = [b"", *(bytes([value]) for value in range(256))]
        for left, right in self.merges:
            if not (0 < left < len(self._bytes) and 0 < right < len(self._bytes)):
                raise ValueError(f"a merge is of {left} and {right}, which are no pieces yet")
            self._bytes.append(self._bytes[left] + self._bytes[right])
        self._known: dict[str, tuple[int, ...]] = {}

    @classmethod
    def learned(cls, texts: Iterable[str], size: int, count_min: int = 2) -> Pieces:
        """Learn from texts: until there are `size` pieces, or no pair is there `count_min` times."""
        counts = Counter(word for text in texts for word in _WORDS.findall(text))
        words = [(_bytes_of(word.encode("utf-8", "surrogatepass")), count) for word, count in sorted(counts.items())]
        return cls(_merges(words, size - FIRST_MERGE, count_min))

    def __len__(self) -> int:
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """Return the pieces of a text."""
        found: list[int] = []
        for word in _WORDS.findall(text):
            pieces = self._known.get(word)
            if pieces is None:
                pieces = self._cut(word.encode("utf-8", "surrogatepass"))
                if len(self._known) < WORDS_KEPT:
                    self._known[word] = pieces
            found += pieces
        return found

    def decode(self, pieces: Iterable[int]) -> str:
        """Return the text of pieces, padding left out; what is no text becomes a replacement character."""
        data = b"".join(self._bytes[piece] for piece in pieces)
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return data.decode("utf-8", "replace")

    def rows(self, texts: Sequence[str], longest: int) -> NDArray[np.int64]:
        """Return (texts, pieces) of texts, 0 behind the end; what is behind the `longest` first pieces is left out."""
        cut = [self.encode(text)[:longest] for text in texts]
        made = np.zeros((len(cut), max((len(each) for each in cut), default=0) or 1), np.int64)
        for row, pieces in enumerate(cut):
            made[row, : len(pieces)] = pieces
        return made

    def to_json(self) -> bytes:
        """Return them as a part of a bundle."""
        return msgspec.json.encode({"merges": self.merges})

    @classmethod
    def from_json(cls, part: bytes) -> Pieces:
        """Read what `to_json` returned."""
        return cls(_DECODER.decode(part).merges)

    def _cut(self, word: bytes) -> tuple[int, ...]:
        found: list[int] = []
        for first in range(0, len(word), WORD_BYTES_MAX):
            found += self._merged(_bytes_of(word[first : first + WORD_BYTES_MAX]))
        return tuple(found)

    def _merged(self, pieces: list[int]) -> list[int]:
        while len(pieces) > 1:
            ranks = [self._rank.get(pair, len(self.merges)) for pair in pairwise(pieces)]
            best = min(ranks)
            if best == len(self.merges):
                break
            pieces = _joined(pieces, self.merges[best], FIRST_MERGE + best)
        return pieces


class _Part(msgspec.Struct):
    merges: list[Pair]


# Made once, here: msgspec crashes if two threads meet a type for the first time at once.
_DECODER = msgspec.json.Decoder(_Part)


def _bytes_of(word: bytes) -> list[int]:
    return [FIRST_BYTE + value for value in word]


def _joined(pieces: list[int], pair: Pair, made: int) -> list[int]:
    joined, at = [], 0
    while at < len(pieces):
        if at + 1 < len(pieces) and (pieces[at], pieces[at + 1]) == pair:
            joined.append(made)
            at += 2
        else:
            joined.append(pieces[at])
            at += 1
    return joined


def _merges(words: list[tuple[list[int], int]], count: int, count_min: int) -> list[Pair]:
    """Merge the most frequent pair again and again; of equally frequent ones the smallest, so that all runs agree."""
    totals: Counter[Pair] = Counter()
    holders: dict[Pair, set[int]] = defaultdict(set)
    for number, (pieces, times) in enumerate(words):
        for pair in pairwise(pieces):
            totals[pair] += times
            holders[pair].add(number)
    merges: list[Pair] = []
    while len(merges) < count and totals:
        best = min(totals, key=lambda pair: (-totals[pair], pair))
        if totals[best] < count_min:
            break
        for number in holders.pop(best):
            pieces, times = words[number]
            for pair in pairwise(pieces):
                totals[pair] -= times
            pieces = _joined(pieces, best, FIRST_MERGE + len(merges))
            words[number] = (pieces, times)
            for pair in pairwise(pieces):
                totals[pair] += times
                holders[pair].add(number)
        merges.append(best)
        del totals[best]
        if len(merges) % 256 == 0:
            totals = +totals  # pairs that are gone
    return merges
