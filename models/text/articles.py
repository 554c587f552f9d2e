"""Articles of a knowledge base, and which of them answer a message.

Two views are summed. Letters: runs of 3 to 5 letters, as TF-IDF, of the message and of each title; it finds typos and
parts of words. Stems: BM25 of the whole article, its title counted three times. Both are put on the scale from 0,
nothing in common, to 1: the cosine is, and BM25 is divided by what an article would get that repeats each stem for
ever. Where a sentence encoder was brought, a third view is most of the score: the largest cosine of the message's
vector with those of an article's passages (`models.text.passages`).

Sources: TF-IDF with logarithmic counts: Manning et al., "Introduction to Information Retrieval", 6.4.1; BM25:
Robertson, Zaragoza 2009, "The Probabilistic Relevance Framework", equations 3.15, 3.3; log(1 + .), so that no weight
is negative.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.text.passages import Passages, passages_of
from models.text.words import char_grams, normalised, stems_of

Float64s = NDArray[np.float64]
ARTICLES_MAX, CHARS_MAX = 50_000, 20_000
TITLE_TIMES = 3
K1, B = 1.2, 0.5  # how soon a repeated stem counts no more; how much a long article is held back
STEMS_SHARE = 0.5  # of a score from words alone
WORDS_SHARE = 0.2  # of a score, where a sentence encoder tells the rest


class ArticleError(ValueError):
    """A knowledge base cannot be used; the message names the line."""


class Article(msgspec.Struct, frozen=True):
    """One article: what decisions name it by, its title, its text."""

    id: str
    title: str
    body: str = ""

    def passages(self) -> list[str]:
        """Return what a sentence encoder reads of it: its title, and the title with each part of its text."""
        return passages_of(normalised(self.title, CHARS_MAX), normalised(self.body, CHARS_MAX))


# Made once, here: msgspec crashes if two threads meet a type for the first time at once.
_ONE, _ALL = msgspec.json.Decoder(Article), msgspec.json.Decoder(list[Article])


def read_articles(lines: bytes, name: str) -> list[Article]:
    """Read a knowledge base of one JSON object a line; `name` is for messages.

    Raises:
        ArticleError: a line is none, two have the same id, or there are none or too many.
    """
    found: dict[str, Article] = {}
    for number, line in enumerate(lines.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            article = _ONE.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ArticleError(
                f"{name}, line {number}: {error}; an article has id, title and body, all texts"
            ) from None
        if found.setdefault(article.id, article) is not article:
            raise ArticleError(f"{name}, line {number}: a second article has the id {article.id!r}; rename one")
    if not 0 < len(found) <= ARTICLES_MAX:
        raise ArticleError(f"{name} has {len(found):,} articles; it takes 1 to {ARTICLES_MAX:,}")
    return list(found.values())


def encode_articles(articles: Sequence[Article]) -> bytes:
    """Return articles as a part of a bundle."""
    return msgspec.json.encode(list(articles))


def decode_articles(part: bytes) -> list[Article]:
    """Read what `encode_articles` returned."""
    return _ALL.decode(part)


class _Postings:
    """For each term the documents that have it, and what it adds to their scores."""

    def __init__(self, documents: Iterable[list[str]], weigh: Callable[[Float64s, Float64s, float, int], Float64s]):
        counted = [Counter(terms) for terms in documents]
        lengths = np.array([max(sum(each.values()), 1) for each in counted], np.float64)
        places: dict[str, list[tuple[int, int]]] = {}
        for document, each in enumerate(counted):
            for term, count in each.items():
                places.setdefault(term, []).append((document, count))
        self.documents = len(counted)
        self._places: dict[str, tuple[NDArray[np.int64], Float64s]] = {}
        self.holders = {term: len(held) for term, held in places.items()}
        relative = lengths / lengths.mean() if counted else lengths
        for term, held in places.items():
            at = np.array([document for document, _ in held], np.int64)
            counts = np.array([count for _, count in held], np.float64)
            self._places[term] = at, weigh(counts, relative[at], float(len(held)), self.documents)

    def add_up(self, terms: Iterable[tuple[str, float]]) -> Float64s:
        """Return (documents,) sums of weight * what the term adds."""
        total = np.zeros(self.documents)
        for term, weight in terms:
            if term in self._places:
                at, adds = self._places[term]
                total[at] += weight * adds
        return total


class ArticleIndex:
    """Finds articles. It is built in memory when it is loaded; thousands of articles take about a second.

    Args:
        articles: of the knowledge base.
        passages: of the same articles; None without a sentence encoder.
    """

    def __init__(self, articles: Sequence[Article], passages: Passages | None = None) -> None:
        self.ids = [article.id for article in articles]
        self._passages = passages
        titles = [normalised(article.title, CHARS_MAX) for article in articles]
        bodies = [normalised(article.body, CHARS_MAX) for article in articles]
        self._letters = _Postings((char_grams(title, 3, 5) for title in titles), _tfidf)
        squares = np.zeros(len(articles))
        for at, adds in self._letters._places.values():
            squares[at] += adds**2
        self._lengths = np.sqrt(np.maximum(squares, 1e-12))
        both = zip(titles, bodies, strict=True)
        self._stems = _Postings((TITLE_TIMES * stems_of(title) + stems_of(body) for title, body in both), _bm25)

    def __len__(self) -> int:
        return len(self.ids)

    def scores(self, text: str, vector: NDArray[np.float32] | None = None) -> Float64s:
        """Return (articles,) how well each answers a normalised text, 0 to 1.

        Args:
            text: of a message.
            vector: (width,) what the sentence encoder says of it, where there are passages.
        """
        if self._passages is None or vector is None:
            return self._in_words(text)
        similar = np.maximum(self._passages.similarities(vector), 0.0)
        return (1 - WORDS_SHARE) * similar + WORDS_SHARE * self._in_words(text)

    def _in_words(self, text: str) -> Float64s:
        count = len(self)
        letters = [(term, _tfidf_of(n, self._letters.holders.get(term, 0), count))
                   for term, n in Counter(char_grams(text, 3, 5)).items()]  # fmt: skip
        length = np.sqrt(sum(weight**2 for _, weight in letters)) or 1.0
        cosine = self._letters.add_up(letters) / (self._lengths * length)
        stems = set(stems_of(text))
        most = sum(_idf(float(self._stems.holders.get(each, 0)), count) * (K1 + 1) for each in stems) or 1.0
        found = self._stems.add_up((each, 1.0) for each in stems) / most
        return (1 - STEMS_SHARE) * cosine + STEMS_SHARE * found

    def best(self, text: str, top: int, vector: NDArray[np.float32] | None = None) -> tuple[tuple[str, float], ...]:
        """Return ids and scores of the articles that answer a normalised text best; none with nothing in common."""
        scores = self.scores(text, vector)
        order = np.argsort(-scores, kind="stable")[:top]
        return tuple((self.ids[at], float(scores[at])) for at in order if scores[at] > 0)


def _tfidf_of(count: float, holders: float, documents: int) -> float:
    return float((1 + np.log(count)) * (np.log((1 + documents) / (1 + holders)) + 1))


def _tfidf(counts: Float64s, relative: Float64s, holders: float, documents: int) -> Float64s:
    return (1 + np.log(counts)) * (np.log((1 + documents) / (1 + holders)) + 1)


def _idf(holders: float, documents: int) -> float:
    return float(np.log(1 + (documents - holders + 0.5) / (holders + 0.5)))


def _bm25(counts: Float64s, relative: Float64s, holders: float, documents: int) -> Float64s:
    return _idf(holders, documents) * counts * (K1 + 1) / (counts + K1 * (1 - B + B * relative))
