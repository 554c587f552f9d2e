"""Reasons: exact where features act alone or in pairs, close to Shapley's values elsewhere, and readable."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from models.features import FeatureSpec
from models.ftrl import Ftrl, FtrlSettings
from models.reasons import Reason, ReasonError, exact_shifts, explain, in_words, occlusion_shifts, typical_row

ALONE = [[j] for j in range(10)]


def random_network(seed, features=10, hidden=32):
    """A network of two layers whose features act in all combinations."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(0, 0.6, (features, hidden)), rng.normal(0, 0.6, (hidden, hidden))
    last = rng.normal(0, 1, hidden)
    return lambda rows: np.tanh(np.tanh(rows @ first) @ second) @ last


def agreement(score_many, rows, baseline, groups):
    """Return the mean overlap of the three largest shifts and the mean rank correlation with the exact twin."""
    overlaps, correlations = [], []
    quick = occlusion_shifts(score_many, rows, baseline, groups)
    for row, shifts in zip(rows, quick, strict=True):
        exact = exact_shifts(score_many, row, baseline, groups)
        best, its_best = set(np.argsort(-np.abs(exact))[:3]), set(np.argsort(-np.abs(shifts))[:3])
        overlaps.append(len(best & its_best) / 3)
        correlations.append(spearmanr(exact, shifts).statistic)
    return np.mean(overlaps), np.mean(correlations)


def test_exact_values_share_out_the_whole_difference():
    score_many, rng = random_network(0), np.random.default_rng(1)
    row, baseline = rng.normal(size=10), np.zeros(10)
    whole = score_many(row[None, :])[0] - score_many(baseline[None, :])[0]
    assert exact_shifts(score_many, row, baseline, ALONE).sum() == pytest.approx(whole, abs=1e-12)


def test_features_that_act_alone_or_in_pairs_are_explained_exactly():
    rng = np.random.default_rng(2)
    alone, pairs = rng.normal(size=10), rng.normal(size=(10, 10))
    rows, baseline = rng.normal(size=(20, 10)), rng.normal(size=10)

    def score_many(rows):
        return np.sin(rows) @ alone + np.einsum("ni,ij,nj->n", rows, pairs, np.abs(rows))

    exact = [exact_shifts(score_many, row, baseline, ALONE) for row in rows]
    np.testing.assert_allclose(occlusion_shifts(score_many, rows, baseline, ALONE), exact, atol=1e-9)


def test_a_network_whose_features_act_all_together_is_explained_closely():
    found = []
    for seed in range(5):
        rows = np.random.default_rng(100 + seed).normal(size=(20, 10))
        found.append(agreement(random_network(seed), rows, np.zeros(10), ALONE))
    overlap, correlation = np.mean(found, axis=0)
    assert overlap >= 0.8
    assert correlation >= 0.9


def test_the_online_model_is_explained_exactly():
    rng = np.random.default_rng(3)
    specs = tuple(FeatureSpec(f"f{j}", "category" if j > 7 else "number") for j in range(10))
    features = np.column_stack([rng.normal(size=(3000, 8)), rng.integers(0, 9, (3000, 2))])
    features[rng.random(features.shape) < 0.1] = np.nan
    model = Ftrl.fitted(specs, features, settings=FtrlSettings(moe=False))
    model.learn(features, (rng.random(3000) < 1 / (1 + np.exp(-np.nan_to_num(features[:, 0] + features[:, 1])))))
    overlap, correlation = agreement(model.predict, features[:10], typical_row(features, specs), ALONE)
    assert overlap == 1
    assert correlation > 0.999


def test_the_features_that_moved_the_score_most_come_first():
    specs = [FeatureSpec("amount"), FeatureSpec("hour"), FeatureSpec("place", "category"), FeatureSpec("idle")]
    rows = np.array([[900.0, 3.0, 77.0, 1.0], [20.0, 12.0, np.nan, 1.0]])
    reasons = explain(
        lambda x: 0.01 * x[:, 0] - 0.1 * x[:, 1] - 5.0 * np.isnan(x[:, 2]),
        rows,
        np.array([20.0, 13.0, 5.0, 0.0]),
        specs,
        top=2,
    )
    assert [in_words(reason) for reason in reasons[0]] == [
        "amount is 900, usually 20: raises the score",
        "hour is 3, usually 13: raises the score",
    ]
    assert [in_words(reason) for reason in reasons[1]] == [
        "place is unknown: lowers the score",
        "hour is 12, usually 13: raises the score",
    ]


def test_columns_of_a_group_move_together_under_the_first_ones_name():
    specs = [FeatureSpec("amount"), FeatureSpec("hour"), FeatureSpec("amount", step=1)]
    rows = np.array([[5.0, 2.0, 7.0]])
    [[reason]] = explain(lambda x: x[:, 0] * x[:, 2], rows, np.zeros(3), specs, groups=[[0, 2], [1]])
    assert reason == Reason("amount", 5.0, 0.0, 35.0)


def test_many_events_are_asked_in_bounded_batches_and_one_by_one_gives_the_same():
    asked = []

    def score_many(rows):
        asked.append(len(rows))
        return rows @ np.arange(10.0)

    rows = np.random.default_rng(5).normal(size=(1000, 10))
    whole = occlusion_shifts(score_many, rows, np.zeros(10), ALONE)
    assert max(asked) <= 4096
    np.testing.assert_allclose(whole[:1], occlusion_shifts(score_many, rows[:1], np.zeros(10), ALONE), atol=1e-12)


def test_typical_values_are_medians_most_common_categories_and_unknown_where_mostly_missing():
    specs = [FeatureSpec("a"), FeatureSpec("b", "category"), FeatureSpec("c")]
    features = np.array([[1.0, 7, np.nan], [2, 7, np.nan], [90, 3, 1]])
    np.testing.assert_array_equal(typical_row(features, specs), [2, 7, np.nan])


@pytest.mark.parametrize(
    ("value", "words"),
    [(912.4, "912"), (0.1234, "0.123"), (0.0, "0"), (1234567.0, "1.23e+06"), (np.nan, "unknown"), (12345.0, "12,345")],
)
def test_numbers_are_readable(value, words):
    assert in_words(Reason("x", value, 14.0, -0.1)) == f"x is {words}, usually 14: lowers the score"


def test_a_category_is_named_without_its_hash():
    assert in_words(Reason("merchant", 3141592653.0, 5.0, 0.2, "category")) == "this merchant: raises the score"


def test_mistakes_are_named():
    specs = [FeatureSpec("a"), FeatureSpec("b")]
    with pytest.raises(ReasonError, match=r"rows have shape \(1, 3\) and the baseline \(2,\) for 2 features"):
        explain(len, np.zeros((1, 3)), np.zeros(2), specs)
    with pytest.raises(ReasonError, match="at most once"):
        explain(len, np.zeros((1, 2)), np.zeros(2), specs, groups=[[0, 1], [1]])
    with pytest.raises(ReasonError, match="17 features would take"):
        exact_shifts(len, np.zeros(17), np.zeros(17), [[j] for j in range(17)])
