"""FTRL-proximal: equal to the algorithm written down slowly, and never poisoned."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.ftrl import CATEGORY, NUMBER, learn_many, predict_many, slots_needed

RATES = np.array([0.1, 1.0, 0.01, 0.02])


def make_case(rows, columns, bins, bits, seed, wild=0.1):
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 3, (rows, columns))
    features[rng.random(features.shape) < wild] = np.nan
    features[rng.random(features.shape) < wild / 4] = np.inf
    features[rng.random(features.shape) < wild / 4] = -1e300
    kinds = rng.integers(0, 2, columns + 1)
    kinds[-1] = NUMBER
    for j in np.flatnonzero(kinds[:-1] == CATEGORY):
        values = rng.integers(0, 2**32, 5)[rng.integers(0, 5, rows)].astype(float)
        features[:, j] = np.where(np.isfinite(features[:, j]), values, features[:, j])
    salts = rng.integers(-(2**62), 2**62, columns + 1)
    layout = np.ascontiguousarray(np.stack([np.arange(columns + 1), kinds, salts], axis=1))
    scaling = np.full((columns + 1, bins + 1), np.inf)
    scaling[:, 0], scaling[:, 1] = rng.normal(size=columns + 1), rng.uniform(0.5, 2, columns + 1)
    if bins > 2:
        scaling[:, 2:-1] = np.sort(rng.normal(0, 3, (columns + 1, bins - 2)), axis=1)  # the last edge stays padding
    slots = np.zeros((slots_needed(columns + 1, bins, bits), 3))
    labels = (rng.random(rows) < 0.4).astype(float)
    labels[rng.random(rows) < 0.1] = np.nan
    return features, rng.normal(size=rows), labels, layout, scaling, slots


def mix(value, salt):
    whole = 2**64 - 1
    x = (value ^ salt) & whole
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & whole
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & whole
    return (x ^ (x >> 31)) >> 1


class SlowFtrl:
    """Algorithm 1 of McMahan et al. 2013 over named weights in dictionaries."""

    def __init__(self, layout, scaling, bits, rates):
        self.layout, self.scaling, self.bits = layout.tolist(), scaling.tolist(), bits
        self.alpha, self.beta, self.l1, self.l2 = rates
        self.z, self.n = {}, {}

    def weight(self, name):
        z, n, l1 = self.z.get(name, 0.0), self.n.get(name, 0.0), 0 if name == "constant" else self.l1
        if abs(z) <= l1:
            return 0.0
        return -(z - math.copysign(l1, z)) / ((self.beta + math.sqrt(n)) / self.alpha + self.l2)

    def inputs(self, row):
        yield "constant", 1.0
        for j, (index, kind, salt) in enumerate(self.layout):
            value, (centre, scale, *edges) = row[index], self.scaling[j]
            if not math.isfinite(value) or (kind == CATEGORY and value < 0):
                yield ("missing", j), 1.0
            elif kind == CATEGORY:
                yield ("category", mix(int(value), salt) % 2**self.bits), 1.0
            else:
                z = max(-1e6, min(1e6, (value - centre) / scale))
                yield ("number", j), z / math.sqrt(1 + (z / 20) ** 2)
                if edges:
                    yield ("bin", j, sum(value >= edge for edge in edges)), 1.0

    def predict(self, row):
        return sum(self.weight(name) * x for name, x in self.inputs(row))

    def learn(self, row, label):
        logit = self.predict(row)
        if not math.isnan(label):
            error = 1 / (1 + math.exp(-logit)) - label
            for name, x in list(self.inputs(row)):
                gradient, w = error * x, self.weight(name)
                n = self.n.get(name, 0.0)
                sigma = (math.sqrt(n + gradient**2) - math.sqrt(n)) / self.alpha
                self.z[name] = self.z.get(name, 0.0) + gradient - sigma * w
                self.n[name] = n + gradient**2
        return logit


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(1, 6), st.sampled_from([1, 2, 5]), st.integers(0, 6), st.integers(0, 2**31))
def test_equals_the_algorithm_written_down_slowly(rows, columns, bins, bits, seed):
    features, moe, labels, layout, scaling, slots = make_case(rows, columns, bins, bits, seed)
    slow = SlowFtrl(layout, scaling, bits, RATES)
    whole = np.column_stack([features, moe])
    progressive = [slow.learn(row, label) for row, label in zip(whole.tolist(), labels.tolist(), strict=True)]
    np.testing.assert_allclose(
        learn_many(features, moe, labels, layout, scaling, RATES, slots), progressive, rtol=0, atol=1e-12
    )
    after = [slow.predict(row) for row in whole.tolist()]
    np.testing.assert_allclose(predict_many(features, moe, layout, scaling, slots), after, rtol=0, atol=1e-12)


def test_batches_of_any_size_learn_the_same_bits():
    features, moe, labels, layout, scaling, slots = make_case(500, 6, 4, 8, seed=3)
    learn_many(features, moe, labels, layout, scaling, RATES, slots)
    for size in (1, 7, 100):
        pieces = np.zeros_like(slots)
        for i in range(0, 500, size):
            here = slice(i, i + size)
            learn_many(features[here], moe[here], labels[here], layout, scaling, RATES, pieces)
        np.testing.assert_array_equal(pieces, slots)


def test_wild_values_never_poison_a_weight():
    features, moe, labels, layout, scaling, slots = make_case(2000, 5, 4, 6, seed=5, wild=0.5)
    features[::3] = [np.inf, -np.inf, np.nan, 1.7e308, -1.7e308]
    moe[::5] = np.nan
    logits = learn_many(features, moe, labels, layout, scaling, RATES, slots)
    assert np.isfinite(logits).all()
    assert np.isfinite(slots).all()


def test_arrays_that_may_not_be_written_are_read():
    features, moe, labels, layout, scaling, slots = make_case(100, 4, 3, 6, seed=1)
    expected = learn_many(features, moe, labels, layout, scaling, RATES, slots.copy())
    for array in (features, moe, labels):
        array.setflags(write=False)
    np.testing.assert_array_equal(learn_many(features, moe, labels, layout, scaling, RATES, slots), expected)
    assert predict_many(features, moe, layout, scaling, slots).shape == (100,)


def test_predicting_changes_nothing():
    features, moe, labels, layout, scaling, slots = make_case(100, 4, 3, 6, seed=1)
    learn_many(features, moe, labels, layout, scaling, RATES, slots)
    before = slots.copy()
    first = predict_many(features, moe, layout, scaling, slots)
    np.testing.assert_array_equal(predict_many(features, moe, layout, scaling, slots), first)
    np.testing.assert_array_equal(slots, before)


def test_a_row_without_a_label_is_scored_only():
    features, moe, labels, layout, scaling, slots = make_case(50, 4, 3, 6, seed=2)
    learn_many(features, moe, np.full_like(labels, np.nan), layout, scaling, RATES, slots)
    assert not slots.any()


def test_a_label_that_is_no_label_is_named_and_nothing_is_learned():
    features, moe, labels, layout, scaling, slots = make_case(5, 4, 3, 6, seed=2)
    labels[3] = 2.0
    with pytest.raises(ValueError, match=r"labels\[3\] is 2\.0; labels are 0, 1, between, or NaN"):
        learn_many(features, moe, labels, layout, scaling, RATES, slots)
    assert not slots.any()


def test_shapes_that_do_not_fit_are_refused_before_the_loop():
    features, moe, labels, layout, scaling, slots = make_case(5, 4, 3, 6, seed=2)
    with pytest.raises(ValueError, match="power of two"):
        predict_many(features, moe, layout, scaling, slots[:-1].copy())
    with pytest.raises(ValueError, match="index is outside 0 to 3"):
        predict_many(np.ascontiguousarray(features[:, :3]), moe, layout, scaling, slots)
    with pytest.raises(ValueError, match="scaling has 4 rows for 5 columns"):
        predict_many(features, moe, layout, scaling[:4].copy(), slots)
    with pytest.raises(ValueError, match="moe_logits has shape"):
        predict_many(features, moe[:2], layout, scaling, slots)
    with pytest.raises(ValueError, match="one label per row"):
        learn_many(features, moe, labels[:2], layout, scaling, RATES, slots)
