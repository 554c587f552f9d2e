"""Statistics of training data: robust, and useful where most values are equal."""

import numpy as np

from models.scaling import fit_scaling


def test_centre_and_scale_of_a_normal_distribution_are_its_mean_and_deviation():
    values = np.random.default_rng(0).normal(7, 2, (100_000, 1))
    centre, scale, *edges = fit_scaling(values, bins=4)[0]
    np.testing.assert_allclose([centre, scale], [7, 2], rtol=0.02)
    np.testing.assert_allclose(edges, np.quantile(values, [0.002, 0.5, 0.998]), rtol=0.02)  # the tails have their bins


def test_one_wild_value_moves_nothing():
    values = np.random.default_rng(0).normal(0, 1, (1001, 1))
    calm = fit_scaling(values, bins=4)
    values[0] = 1e300
    np.testing.assert_allclose(fit_scaling(values, bins=4), calm, atol=0.25)  # the last edge lies in the tail


def test_nan_and_infinite_values_are_left_out():
    values = np.array([[1.0], [2.0], [3.0], [np.nan], [np.inf], [-np.inf]])
    np.testing.assert_array_equal(fit_scaling(values, bins=2), fit_scaling(values[:3], bins=2))


def test_a_count_that_is_mostly_zero_still_has_bins_for_the_rest():
    values = np.zeros((1000, 1))
    values[:30, 0] = np.arange(1, 31)
    edges = fit_scaling(values, bins=4)[0, 2:]
    assert np.isfinite(edges).all()
    assert (np.diff(edges) > 0).all()
    assert edges[0] > 0


def test_a_constant_and_an_empty_column_have_scale_one():
    for column in (np.full((9, 1), 4.0), np.full((9, 1), np.nan), np.empty((0, 1))):
        assert fit_scaling(column, bins=3)[0, 1] == 1


def test_two_values_have_one_edge_between_them():
    values = np.array([[0.0], [1.0]] * 50)
    np.testing.assert_array_equal(fit_scaling(values, bins=4)[0, 2:], [1, np.inf, np.inf])
