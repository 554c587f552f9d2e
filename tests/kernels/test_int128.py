"""128-bit halves against Python's integers and exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import int128
from kernels.compiled import njit
from kernels.parts import NO_RUNTIME

wholes = st.integers(-(2**63), 2**63 - 1)
wide = st.integers(-(2**127), 2**127 - 1)
LARGEST = 2**46  # of a value in a window


@njit("UniTuple(int64, 2)(int64, int64, int64, int64)", **NO_RUNTIME)
def add_product(low, high, a, b):
    return int128.add_product(low, high, a, b)


@njit("UniTuple(int64, 2)(int64, int64, int64, int64)", **NO_RUNTIME)
def subtract(low, high, low2, high2):
    return int128.subtract(low, high, low2, high2)


@njit("float64(int64, int64)", **NO_RUNTIME)
def to_float(low, high):
    return int128.to_float(low, high)


@njit("float64(int64, int64, int64, int64)", **NO_RUNTIME)
def deviations(count, total, low, high):
    return int128.sum_of_squared_deviations(count, total, low, high)


def halves(number):
    """Split a number into two's complement halves, modulo 2**128."""
    number %= 2**128
    low, high = number % 2**64, number >> 64
    return low - 2**64 * (low >= 2**63), high - 2**64 * (high >= 2**63)


@given(wide, wholes, wholes)
def test_a_product_is_added_modulo_2_to_the_128(number, a, b):
    assert add_product(*halves(number), a, b) == halves(number + a * b)


@given(wide, wide)
def test_a_difference_is_taken_modulo_2_to_the_128(one, other):
    assert subtract(*halves(one), *halves(other)) == halves(one - other)


@given(st.integers(0, 2**127 - 1))
def test_what_is_not_negative_becomes_the_nearest_float_or_its_neighbour(number):
    assert to_float(*halves(number)) == pytest.approx(number, rel=2**-52, abs=0)


def looked_up(values):
    """Return the sum of squared deviations as an exact fraction."""
    mean = Fraction(sum(values), len(values))
    return sum((each - mean) ** 2 for each in values)


def computed(values):
    return deviations(len(values), sum(values), *halves(sum(each * each for each in values)))


@settings(max_examples=300)
@given(st.lists(st.integers(-LARGEST, LARGEST), min_size=1, max_size=30))
def test_squared_deviations_are_exact_to_the_last_bits(values):
    assert computed(values) == pytest.approx(float(looked_up(values)), rel=1e-14, abs=0)


@given(st.integers(-LARGEST + 3, LARGEST - 3), st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_a_small_spread_far_from_zero_keeps_all_its_digits(centre, steps):
    values = [centre + step for step in steps]
    assert computed(values) == pytest.approx(float(looked_up(values)), rel=1e-14, abs=0)


@pytest.mark.parametrize("values", [[LARGEST] * 65_536, [-LARGEST, LARGEST] * 32_768, [LARGEST] * 65_535 + [-LARGEST]])
def test_the_largest_window_of_the_largest_values_does_not_overflow(values):
    assert abs(sum(values)) <= np.iinfo(np.int64).max
    assert computed(values) == pytest.approx(float(looked_up(values)), rel=1e-14, abs=0)


@given(st.integers(0, 2**127 - 1), st.lists(st.integers(-LARGEST, LARGEST), max_size=30))
def test_differences_of_totals_that_wrapped_are_exact(before, values):
    low, high = halves(before + 2**127)  # a running total that has come round
    start = low, high
    for each in values:
        low, high = add_product(low, high, each, each)
    assert subtract(low, high, *start) == halves(sum(each * each for each in values))
