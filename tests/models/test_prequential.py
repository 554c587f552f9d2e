"""Live quality: the newest labels only, in the order they came, whatever the batches."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.metrics import MetricError
from models.prequential import Prequential


def stream(rows=5000, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.3).astype(float)
    return rng.random(rows) * 0.5 + 0.3 * labels * np.linspace(1, -1, rows), labels


@pytest.mark.parametrize("size", [1, 7, 999, 5000])
def test_looks_at_the_newest_labels_only(size):
    scores, labels = stream()
    live = Prequential(window=1000)
    for i in range(0, 5000, size):
        live.update(scores[i : i + size], labels[i : i + size])
    assert live.auc() == pytest.approx(roc_auc_score(labels[-1000:], scores[-1000:]), abs=1e-12)
    assert live.report()["labels"] == 1000


def test_older_labels_fade():
    scores, labels = stream()
    live = Prequential(window=4000, half_life=500)
    live.update(scores, labels)
    weights = 0.5 ** (np.arange(3999, -1, -1) / 500)
    expected = roc_auc_score(labels[-4000:], scores[-4000:], sample_weight=weights)
    assert live.auc() == pytest.approx(expected, abs=1e-12)


def test_says_nan_until_both_classes_were_seen():
    live = Prequential()
    assert np.isnan(live.auc())
    live.update(np.array([0.3, np.nan]), np.array([1, 0]))
    assert np.isnan(live.auc())
    live.update(np.array([0.2]), np.array([0]))
    assert live.auc() == 1.0


def test_mistakes_are_named():
    with pytest.raises(MetricError, match="window is 0"):
        Prequential(window=0)
    with pytest.raises(MetricError, match="half_life is 0"):
        Prequential(half_life=0)
    with pytest.raises(MetricError, match="one label per score"):
        Prequential().update(np.zeros(2), np.zeros(3))
