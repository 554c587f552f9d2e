"""128-bit integers as pairs of 64-bit halves: what makes sums of squares exact.

A pair is (low, high) in two's complement, both held as int64. All operations wrap modulo 2**128, so
differences of running totals are exact as long as the difference itself fits.
"""

from kernels.parts import Intrinsic, part

add_product = Intrinsic("add_product")
subtract = Intrinsic("subtract")
multiply_high = Intrinsic("multiply_high")


@part
def to_float(low: int, high: int) -> float:
    """Return a pair, zero or more, as float64, within one rounding of its halves."""
    unsigned = float(low) if low >= 0 else float(low) + 18446744073709551616.0
    return float(high) * 18446744073709551616.0 + unsigned


@part
def sum_of_squared_deviations(count: int, total: int, low: int, high: int) -> float:
    """Return the sum of (x - mean)**2 of `count` integers, from their sum and their sum of squares.

    The squares are first moved, exactly, to the integer nearest the mean; what floating point then
    subtracts is at most a quarter of a unit per value, so nothing cancels.

    Args:
        count: above zero; count times the largest magnitude below 2**63.
        total: sum of the integers.
        low, high: sum of their squares, 128 bits.
    """
    centre = round(total / count)
    rest = total - count * centre
    low, high = add_product(low, high, -2 * centre, total)
    low, high = add_product(low, high, count * centre, centre)
    return to_float(low, high) - float(rest) * float(rest) / count
