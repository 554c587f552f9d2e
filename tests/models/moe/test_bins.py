import numpy as np
import pytest

from models.features import FeatureSpec
from models.moe.bins import learn_code, number_columns
from models.moe.settings import MoESettings
from models.moe.tokens import plan_tokens


def edges_of(code, i: int = 0) -> np.ndarray:
    used = code.slope[i] > 0
    lower = code.lower[i][used].astype(float)
    last = lower[-1:] + 1 / code.slope[i][used][-1:]
    return np.concatenate([lower, last]) / code.scale[i] + code.shift[i]


def test_edges_are_quantiles():
    values = np.arange(1001.0)
    code = learn_code([values], [np.zeros(1001, np.uint8)], bins=4)
    np.testing.assert_allclose(edges_of(code), [0, 250, 500, 750, 1000], rtol=1e-5)


def test_half_of_the_edges_look_where_the_positives_are():
    values = np.arange(10_000.0)
    labels = (values >= 9_900).astype(np.uint8)
    edges = edges_of(learn_code([values], [labels], bins=8))
    assert (edges >= 9_899).sum() >= 4
    assert edges[0] == pytest.approx(0, abs=1)


@pytest.mark.parametrize("values", [np.full(10, np.nan), np.full(10, 3.0), np.zeros(0)])
def test_a_column_that_says_nothing_gets_a_code_that_says_nothing(values):
    code = learn_code([values], [np.zeros(len(values), np.uint8)], bins=4)
    assert (code.slope == 0).all()
    assert np.isfinite(code.shift).all()
    assert np.isfinite(code.scale).all()


def test_pieces_narrower_than_rounding_are_left_out():
    values = np.concatenate([np.zeros(500), np.full(500, 1e-9), np.linspace(1, 2, 1000)])
    code = learn_code([values], [np.zeros(2000, np.uint8)], bins=16)
    assert code.slope.max() <= 1e4 * (1 + 1e-6)


def test_null_infinite_and_far_values_do_not_move_the_scale():
    values = np.concatenate([np.arange(1000.0), [np.nan, np.inf, 1e300]])
    code = learn_code([values], [np.zeros(1003, np.uint8)], bins=4)
    assert code.shift[0] == pytest.approx(500, abs=1)
    assert 1 / code.scale[0] == pytest.approx(500, rel=0.01)
    assert np.isfinite(code.lower).all()


def test_a_channel_pools_its_steps():
    specs = [FeatureSpec("b"), FeatureSpec("s1", group="s", step=1), FeatureSpec("s2", group="s", step=2)]
    features = np.arange(6.0).reshape(2, 3)
    plan = plan_tokens(specs, MoESettings())
    columns, labels = number_columns(features, np.array([0, 1], np.uint8), plan, [spec.kind for spec in specs])
    assert [column.tolist() for column in columns] == [[0, 3], [1, 4, 2, 5]]
    assert [label.tolist() for label in labels] == [[0, 1], [0, 1, 0, 1]]
