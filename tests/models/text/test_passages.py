"""An article is as close to a message as its closest passage, however many passages the others have."""

import numpy as np

from models.text.articles import Article, ArticleIndex
from models.text.passages import PARTS_MAX, WORDS, Passages

ARTICLES = [
    Article("lost", "Lost card"),
    Article("fees", "Fees", "word " * (WORDS * PARTS_MAX + 50)),
    Article("rates", "Rates", "about exchange"),
]
CHANCE = np.random.default_rng(0)
VECTORS = CHANCE.normal(0, 1, (1 + 1 + PARTS_MAX + 2, 8)).astype(np.float32)


def read(articles):
    texts = [each.passages() for each in articles]
    told = []
    made = Passages.read(texts, lambda some: VECTORS[: len(some)], told.append)
    assert told == [len(VECTORS)]
    return made


def test_each_article_has_its_title_and_the_beginning_of_its_text():
    assert [len(each.passages()) for each in ARTICLES] == [1, 1 + PARTS_MAX, 2]
    assert ARTICLES[2].passages() == ["rates", "rates about exchange"]


def test_similarity_is_the_largest_cosine_of_an_articles_passages():
    passages = read(ARTICLES)
    vector = CHANCE.normal(0, 1, 8).astype(np.float32)
    cosines = [float(each @ vector / np.linalg.norm(each) / np.linalg.norm(vector)) for each in VECTORS]
    wanted = [cosines[0], max(cosines[1 : 2 + PARTS_MAX]), max(cosines[2 + PARTS_MAX :])]
    np.testing.assert_allclose(passages.similarities(vector), wanted, atol=1e-6)


def test_passages_come_back_from_a_bundle():
    passages = read(ARTICLES)
    back = Passages.from_part(passages.to_part())
    np.testing.assert_allclose(back.vectors, passages.vectors, atol=1e-3)  # in half precision
    assert back.starts.tolist() == passages.starts.tolist() == [0, 1, 2 + PARTS_MAX]


def test_what_is_meant_counts_more_than_what_is_said():
    index = ArticleIndex(ARTICLES, read(ARTICLES))
    assert index.best("rates", 1)[0][0] == "rates"
    assert index.best("rates", 1, VECTORS[0])[0][0] == "lost"
    scores = index.scores("rates", VECTORS[0])
    assert ((scores >= 0) & (scores <= 1)).all()
