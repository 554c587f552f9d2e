"""Articles are found by letters and stems, with scores that a slow twin computes alike."""

import math
from collections import Counter

import numpy as np
import pytest

from models.text.articles import Article, ArticleError, ArticleIndex, decode_articles, encode_articles, read_articles
from models.text.words import char_grams, normalised, stems_of

ARTICLES = [
    Article("kb-1", "My card has not arrived", "A card takes five working days. Track the delivery."),
    Article("kb-2", "Report a lost or stolen card", "Freeze the card at once, then order another card."),
    Article("kb-3", "Close your account", "Move your money, then choose close."),
]
QUERIES = ["my crad did not arive", "somebody stole the card", "closing an account", "card card card", "xyzzy", ""]


def slow_scores(query):
    """The two formulas, term by term."""
    count = len(ARTICLES)
    titles = [Counter(char_grams(normalised(each.title, 999), 3, 5)) for each in ARTICLES]
    asked = Counter(char_grams(query, 3, 5))

    def tfidf(counted):
        holders = {term: sum(term in title for title in titles) for term in counted}
        return {t: (1 + math.log(n)) * (math.log((1 + count) / (1 + holders[t])) + 1) for t, n in counted.items()}

    bodies = [3 * stems_of(normalised(a.title, 999)) + stems_of(normalised(a.body, 999)) for a in ARTICLES]
    mean = sum(map(len, bodies)) / count
    found = []
    for title, body in zip(titles, bodies, strict=True):
        mine, theirs = tfidf(asked), tfidf(title)
        norms = math.sqrt(sum(v * v for v in mine.values())) * math.sqrt(sum(v * v for v in theirs.values()))
        cosine = sum(v * theirs.get(t, 0) for t, v in mine.items()) / norms if norms else 0
        got = most = 0.0
        for each in set(stems_of(query)):
            holders = sum(each in other for other in bodies)
            idf, n = math.log(1 + (count - holders + 0.5) / (holders + 0.5)), body.count(each)
            got += idf * n * 2.2 / (n + 1.2 * (0.5 + 0.5 * len(body) / mean))
            most += idf * 2.2
        found.append(0.5 * cosine + 0.5 * (got / most if most else 0))
    return found


@pytest.mark.parametrize("query", QUERIES)
def test_scores_agree_with_the_formulas_written_out(query):
    scores = ArticleIndex(ARTICLES).scores(query)
    np.testing.assert_allclose(scores, slow_scores(query), atol=1e-12)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_typos_and_other_forms_find_the_article():
    index = ArticleIndex(ARTICLES)
    assert [index.best(query, 1)[0][0] for query in QUERIES[:3]] == ["kb-1", "kb-2", "kb-3"]


def test_nothing_in_common_finds_nothing():
    assert ArticleIndex(ARTICLES).best("xyzzy", 3) == ()


def test_a_knowledge_base_reads_back_the_same():
    lines = b'{"id":"1","title":"a","body":"b"}\n\n{"id":"2","title":"c"}\n'
    articles = read_articles(lines, "kb.jsonl")
    assert articles == [Article("1", "a", "b"), Article("2", "c")]
    assert decode_articles(encode_articles(articles)) == articles


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b'{"id":"1","title":"a"}\n{"id":"1","title":"b"}', "kb.jsonl, line 2: a second article has the id '1'"),
        (b'{"id":"1"}', "kb.jsonl, line 1: .*title.*an article has id, title and body"),
        (b"\xff", "kb.jsonl, line 1: .*an article has id"),
        (b"\n", "kb.jsonl has 0 articles; it takes 1 to 50,000"),
    ],
)
def test_a_line_that_is_no_article_is_named(lines, message):
    with pytest.raises(ArticleError, match=message):
        read_articles(lines, "kb.jsonl")
