"""Is the fraud neither trivial nor hopeless? Boosted trees on a few simple features say so."""

import numpy as np
import pytest

from ops.simulate.population import Payments
from ops.simulate.settings import DAY_MS, HOUR_MS, SimulationSettings

sklearn_ensemble = pytest.importorskip("sklearn.ensemble", reason="the extra `train` is not installed")
sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="the extra `train` is not installed")


def seen_before(*columns: np.ndarray) -> np.ndarray:
    """Return (events,) how often the combination was there before."""
    _, combination = np.unique(np.stack(columns), axis=1, return_inverse=True)
    order = np.argsort(combination, kind="stable")
    first = np.searchsorted(combination[order], combination[order])
    before = np.empty(order.size, np.int64)
    before[order] = np.arange(order.size) - first
    return before


def count_within(key: np.ndarray, ts_ms: np.ndarray, newest_ms: int, oldest_ms: int, weight: np.ndarray) -> np.ndarray:
    """Return (events,) the summed weight of the key's events in (t - oldest, t - newest]."""
    clock = key.astype(np.int64) * (1 << 43) + ts_ms
    order = np.argsort(clock, kind="stable")
    reached = np.concatenate([[0.0], np.cumsum(weight[order])])
    ends = [np.searchsorted(clock[order], clock - ago_ms, side="right") for ago_ms in (oldest_ms, newest_ms)]
    return reached[ends[1]] - reached[ends[0]]


def simple_features(rows: Payments) -> np.ndarray:
    """Return (events, features) of payments in time order, from what was known by then (labels after two days)."""
    card, terminal, ts_ms = rows["card"], rows["terminal"], rows["ts_ms"]
    log_amount, ones, is_fraud = np.log(rows["cents"]), np.ones(rows.size), (rows["pattern"] > 0) * 1.0
    past = [count_within(card, ts_ms, 1, 30 * DAY_MS, weight) for weight in (ones, log_amount)]
    known = [count_within(terminal, ts_ms, 2 * DAY_MS, 9 * DAY_MS, weight) for weight in (ones, is_fraud)]
    columns = [
        log_amount,
        log_amount - past[1] / np.maximum(past[0], 1),
        past[0],
        rows["category"],
        rows["channel"],
        ts_ms // HOUR_MS % 24,
        seen_before(card, rows["device"]),
        seen_before(card, rows["place"]),
        seen_before(card, terminal),
        seen_before(rows["device"]),
        count_within(card, ts_ms, 0, HOUR_MS, ones),
        count_within(card, ts_ms, 0, DAY_MS, np.exp(log_amount)),
        count_within(terminal, ts_ms, 0, HOUR_MS, ones),
        known[1] / (known[0] + 5),
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def test_boosted_trees_find_most_fraud_but_not_all(whole):
    settings = SimulationSettings(days=14, events_per_day=6_000, cards=900, terminals=250, fraud_rate=0.01)
    rows = whole(settings).happened
    rows = rows[np.argsort(rows["ts_ms"], kind="stable")]
    features, is_fraud = simple_features(rows), rows["pattern"] > 0
    day = (rows["ts_ms"] - settings.start_ms) / DAY_MS
    train, test = (day > 2) & (day < 8), day >= 10
    trees = sklearn_ensemble.HistGradientBoostingClassifier(
        max_iter=80, learning_rate=0.08, max_leaf_nodes=15, min_samples_leaf=40, l2_regularization=5, random_state=0
    ).fit(features[train], is_fraud[train])
    score = trees.predict_proba(features[test])[:, 1]
    auc = sklearn_metrics.roc_auc_score(is_fraud[test], score)
    precision = sklearn_metrics.average_precision_score(is_fraud[test], score)
    print(f"AUC {auc:.3f}, average precision {precision:.3f}")
    assert 0.91 < auc < 0.98
    assert 0.45 < precision < 0.85
