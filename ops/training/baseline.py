"""What to compare with: scikit-learn's gradient boosting on exactly the same features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.features import FeatureSpec

Float64s = NDArray[np.float64]
CATEGORIES_MAX = 250  # of a column, the most frequent ones; scikit-learn takes up to 255
SETTINGS: dict[str, float | int | bool] = {
    "learning_rate": 0.05, "max_iter": 250, "max_leaf_nodes": 15, "min_samples_leaf": 50, "l2_regularization": 5.0,
    "early_stopping": False,
}  # fmt: skip


def boosting(train: Float64s, labels: Float64s, test: Float64s, specs: Sequence[FeatureSpec], seed: int) -> Float64s:
    """Train on (n, f) features and (n,) labels; return the probabilities of (m, f) others.

    Nulls stay nulls. A category is one of the most frequent of the training part, else null.

    Source: scikit-learn's HistGradientBoostingClassifier, after Ke et al., "LightGBM", NeurIPS 2017.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    categories = np.array([spec.kind == "category" for spec in specs])
    train, test = train.copy(), test.copy()
    for column in np.flatnonzero(categories):
        values, counts = np.unique(train[~np.isnan(train[:, column]), column], return_counts=True)
        kept = np.sort(values[np.argsort(-counts, kind="stable")[:CATEGORIES_MAX]])
        train[:, column], test[:, column] = _codes(train[:, column], kept), _codes(test[:, column], kept)
    model = HistGradientBoostingClassifier(**SETTINGS, categorical_features=categories, random_state=seed)
    probabilities: Float64s = model.fit(train, labels).predict_proba(test)[:, 1]
    return probabilities


def _codes(values: Float64s, kept: Float64s) -> Float64s:
    if not kept.size:
        return np.full(values.shape, np.nan)
    places = np.minimum(np.searchsorted(kept, values), kept.size - 1)
    return np.where(kept[places] == values, places.astype(np.float64), np.nan)
