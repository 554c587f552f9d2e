"""Rounding expert weights, and the layouts that ONNX Runtime reads."""

import numpy as np
import pytest

from models.quantize.packing import Rounded, interleaved, packed, rounded, swiglu


def weights(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("bits", "group"), [(8, None), (8, 16), (4, None), (4, 16)])
def test_no_weight_is_off_by_more_than_half_a_level(bits, group):
    given = weights(3, 64, 10)
    found = rounded(given, bits, group)
    assert found.scales.shape == (3, 64 // (group or 64), 10)
    half = np.repeat(found.scales, group or 64, axis=1) / 2
    assert (np.abs(found.weights() - given) <= half * (1 + 1e-5)).all()
    assert np.abs(found.levels).max() == 2 ** (bits - 1) - 1


def test_weights_on_levels_come_back_as_they_were():
    levels = np.random.default_rng(0).integers(-127, 128, (2, 8, 5)).astype(np.int8)
    levels[:, 0] = 127
    given = Rounded(levels, np.full((2, 1, 5), 0.25, np.float32), 8)
    np.testing.assert_array_equal(rounded(given.weights()).weights(), given.weights())


def test_columns_of_zeros_stay_zeros():
    assert not rounded(np.zeros((1, 4, 2), np.float32)).weights().any()


def test_rows_that_cannot_be_shared_out_are_refused():
    with pytest.raises(ValueError, match="48 rows cannot be shared out in groups of 32"):
        rounded(weights(1, 48, 2), group=32)


@pytest.mark.parametrize("bits", [8, 4])
def test_rounded_for_its_inputs_products_are_nearer(bits):
    given = weights(2, 64, 20)
    mixing = weights(6, 64, seed=1)  # 64 numbers that are made of 6
    inputs = [weights(500, 6, seed=2) @ mixing + 0.05 * weights(500, 64, seed=3) for _ in range(2)]
    unseen = weights(500, 6, seed=4) @ mixing + 0.05 * weights(500, 64, seed=5)
    off = [np.square(unseen @ (rounded(given, bits, None, seen).weights() - given)).mean() for seen in (None, inputs)]
    assert off[1] < off[0] / 4


def test_an_expert_that_nobody_visited_is_rounded_to_the_nearest():
    given = weights(1, 32, 4)
    nobody = rounded(given, 8, None, [np.zeros((0, 32), np.float32)])
    np.testing.assert_array_equal(nobody.levels, rounded(given).levels)


def test_gates_and_values_alternate():
    np.testing.assert_array_equal(interleaved(np.array([[1.0, 2, 3, 10, 20, 30]])), [[1, 10, 2, 20, 3, 30]])


def test_two_levels_of_4_bits_share_a_byte_the_first_below():
    levels = np.array([[[-8], [7], [0], [1]]], np.int8)  # one expert, four rows, one column
    assert packed(Rounded(levels, np.ones((1, 1, 1), np.float32), 4))[0].tolist() == [[[0xF0, 0x98]]]


def test_packed_levels_stand_for_the_weights():
    given = rounded(weights(2, 64, 6), 8, 32)
    levels, scales = packed(given)
    assert (levels.shape, scales.shape) == ((2, 6, 64), (2, 6, 2))
    unpacked = (levels.astype(np.float32) - 128) * np.repeat(scales, 32, axis=2)
    np.testing.assert_array_equal(unpacked.transpose(0, 2, 1), given.weights())


def test_swiglu_does_not_overflow():
    assert swiglu(np.array([[-1e4]], np.float32), np.array([[1, 1]], np.float32)) == pytest.approx(0, abs=1e-20)
