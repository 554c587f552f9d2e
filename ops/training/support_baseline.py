"""What to compare with: TF-IDF, with scikit-learn, on exactly the same messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.text.articles import Article
from ops.training.contents import Contents

Int64s = NDArray[np.int64]


def intents_by_tfidf(learned: Contents, texts: Sequence[str], place: Mapping[str, int]) -> Int64s:
    """Learn intents by a linear SVM on words (1 to 3) and letters (2 to 5); return the classes of other texts."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    rows = [row for row, intent in enumerate(learned.labels["intent"]) if place.get(str(intent), -1) >= 0]
    known = [learned.values[row] for row in rows]
    words = TfidfVectorizer(ngram_range=(1, 3), sublinear_tf=True, token_pattern=r"\w+")
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    train = hstack([words.fit_transform(known), letters.fit_transform(known)])
    model = LinearSVC().fit(train, [place[str(learned.labels["intent"][row])] for row in rows])
    said: Int64s = model.predict(hstack([words.transform(texts), letters.transform(texts)])).astype(np.int64)
    return said


def ranks_by_tfidf(articles: Sequence[Article], texts: Sequence[str], right: Int64s) -> Int64s:
    """Return the rank, from 0, of the right article by the cosine of letters (3 to 5) with the titles."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    titles = letters.fit_transform([article.title for article in articles])
    scores = (letters.transform(texts) @ titles.T).toarray()
    ranks: Int64s = (np.argsort(-scores, axis=1, kind="stable") == right[:, None]).argmax(axis=1)
    return ranks
