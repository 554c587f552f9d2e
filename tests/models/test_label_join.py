"""Late labels meet what was served: once, in order, bounded, and the ledger closes."""

import numpy as np
import pytest

from models.ftrl import LearnerError
from models.label_join import LabelJoin


def serve(join, *ids):
    values = np.array(ids, np.float64)
    return join.serve(np.array(ids, np.int64), np.column_stack([values, -values]), values + 0.5, values / 100)


def label(join, **labels):
    ids = np.array([int(name[1:]) for name in labels], np.int64)
    return join.label(ids, np.array(list(labels.values()), np.float64))


def test_a_label_meets_the_features_that_were_served():
    join = LabelJoin(features=2)
    assert serve(join, 1, 2, 3).ids.size == 0
    joined = label(join, _3=1, _1=0)
    assert joined.ids.tolist() == [3, 1]
    assert joined.features.tolist() == [[3, -3], [1, -1]]
    assert joined.moe_logits.tolist() == [3.5, 1.5]
    assert joined.scores.tolist() == [0.03, 0.01]
    assert joined.labels.tolist() == [1, 0]


def test_a_label_that_comes_first_waits_for_its_event():
    join = LabelJoin(features=2)
    assert label(join, _2=1).ids.size == 0
    assert join.counts.waiting == 1
    assert serve(join, 1, 2).ids.tolist() == [2]
    assert (join.counts.joined, join.counts.waiting) == (1, 0)


def test_the_first_label_stays_and_copies_are_counted():
    join = LabelJoin(features=2)
    serve(join, 1)
    label(join, _1=1)
    assert label(join, _1=1).ids.size == 0
    assert label(join, _1=0).ids.size == 0
    label(join, _9=1)
    label(join, _9=1)
    label(join, _9=0)
    label(join, _1=np.nan)
    label(join, _1=2)
    counts = join.counts
    assert (counts.joined, counts.duplicate, counts.superseded, counts.waiting, counts.invalid) == (1, 2, 2, 1, 2)


def test_an_id_served_twice_keeps_its_first_event():
    join = LabelJoin(features=2)
    serve(join, 1)
    join.serve(np.array([1]), np.zeros((1, 2)), np.zeros(1), np.zeros(1))
    assert label(join, _1=1).features.tolist() == [[1, -1]]


def test_memory_is_bounded_and_the_ledger_closes():
    rng = np.random.default_rng(0)
    join, given = LabelJoin(features=2, events_max=50, early_max=20), 0
    for _ in range(300):
        serve(join, *rng.integers(0, 500, rng.integers(0, 9)).tolist())
        ids = rng.integers(0, 500, rng.integers(0, 9))
        join.label(ids, rng.integers(0, 2, ids.size).astype(float))
        given += ids.size
        counts = vars(join.counts)
        assert sum(counts.values()) == given
        assert 0 <= counts["waiting"] <= 20
    assert counts["unmatched"] > 0


def test_bounds_below_one_are_refused():
    with pytest.raises(LearnerError, match="events_max is 0 and early_max is 10000; both must be 1 or more"):
        LabelJoin(features=2, events_max=0)
