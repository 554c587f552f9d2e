"""Remembered scores are the model's, by the bits of a row; each row is asked for once; old ones are forgotten."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.row_memo import RowMemo


class Model:
    """Scores rows by all their bits, and notes what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, rows):
        self.asked += [row.tobytes() for row in rows]
        return np.array([float(hash(row.tobytes()) % 10**9) for row in rows])


batches = st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.5, np.nan, -np.nan]), min_size=2, max_size=2), max_size=30)


@given(st.lists(batches, max_size=6), st.integers(0, 12))
def test_scores_are_those_of_the_model(rounds, rows_kept):
    memo, model = RowMemo(Model(), rows_kept), Model()
    for batch in rounds:
        rows = np.array(batch, np.float64).reshape(-1, 2)
        assert memo(rows).tolist() == model(rows).tolist()


def test_a_row_is_asked_for_once():
    model = Model()
    memo = RowMemo(model)
    rows = np.arange(20.0).reshape(10, 2)
    memo(rows[[0, 1, 0, 2]])
    memo(rows[[2, 3, 1]])
    assert model.asked == [row.tobytes() for row in rows[:4]]


def test_what_was_not_asked_for_longest_is_forgotten():
    model = Model()
    memo = RowMemo(model, 3)
    rows = np.arange(20.0).reshape(10, 2)
    memo(rows[:3])
    memo(rows[:1])  # used again: row 1 is the oldest now
    memo(rows[3:4])
    memo(rows[[0, 2, 3]])
    assert len(model.asked) == 4
    memo(rows[1:2])
    assert model.asked[-1] == rows[1].tobytes()


def test_rows_of_a_model_that_fails_are_not_remembered():
    def broken(rows):
        raise ValueError("broken weights")

    memo = RowMemo(broken)
    for _ in range(2):
        with pytest.raises(ValueError, match="broken weights"):
            memo(np.zeros((1, 2)))


def test_several_threads_get_the_same_scores():
    memo, model, wrong = RowMemo(Model(), 40), Model(), []
    rows = np.arange(400.0).reshape(200, 2)
    right = model(rows)

    def ask(seed):
        draw = np.random.default_rng(seed)
        for _ in range(200):
            at = draw.integers(0, 200, 20)
            if memo(rows[at]).tolist() != right[at].tolist():
                wrong.append(at)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
