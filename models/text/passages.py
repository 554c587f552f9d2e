"""Passages of articles as a sentence encoder sees them: an article is as close to a message as its closest passage.

An encoder reads the beginning of a text and no more, and one vector for all of a long article is close to nothing: so
the title stands alone, and then before each part of the text.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
WORDS, PARTS_MAX = 120, 4  # words of a part, about 160 tokens; how many parts of an article are read
AT_ONCE = 64


@dataclass(frozen=True)
class Passages:
    """The passages of a knowledge base.

    Attributes:
        vectors: (passages, width) of length 1.
        starts: (articles,) the first passage of each article, ascending; it has the following ones up to the next.
    """

    vectors: Float32s
    starts: NDArray[np.int64]

    @classmethod
    def read(
        cls, articles: Sequence[Sequence[str]], embed: Callable[[Sequence[str]], Float32s],
        tell: Callable[[int], object] = lambda done: None,
    ) -> Passages:  # fmt: skip
        """Read the passages of some articles; `tell` is told how many passages are done."""
        texts = [text for each in articles for text in each]
        starts = np.cumsum([0, *(len(each) for each in articles)])[:-1]
        parts = []
        for first in range(0, len(texts), AT_ONCE):
            parts.append(embed(texts[first : first + AT_ONCE]))
            tell(min(first + AT_ONCE, len(texts)))
        return cls(_unit(np.concatenate(parts)), starts.astype(np.int64))

    def similarities(self, vector: Float32s) -> NDArray[np.float64]:
        """Return (articles,) the largest cosine of a vector with a passage of each, -1 to 1."""
        close = self.vectors @ _unit(vector[None])[0]
        return np.maximum.reduceat(close, self.starts).astype(np.float64)

    def to_part(self) -> bytes:
        """Return them as a part of a bundle, in half precision."""
        file = io.BytesIO()
        np.savez(file, vectors=self.vectors.astype(np.float16), starts=self.starts)
        return file.getvalue()

    @classmethod
    def from_part(cls, part: bytes) -> Passages:
        """Read what `to_part` returned."""
        with np.load(io.BytesIO(part), allow_pickle=False) as arrays:
            return cls(_unit(arrays["vectors"].astype(np.float32)), arrays["starts"].astype(np.int64))


def passages_of(title: str, body: str) -> list[str]:
    """Return the title, and the title with each part of the text.

    >>> [len(each.split()) for each in passages_of("lost card", "word " * 150)]
    [2, 122, 32]
    """
    words = body.split()
    parts = [" ".join(words[first : first + WORDS]) for first in range(0, len(words), WORDS)][:PARTS_MAX]
    return [title, *(f"{title} {part}".strip() for part in parts)]


def _unit(vectors: Float32s) -> Float32s:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
