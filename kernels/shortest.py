"""The shortest decimal number that reads back as the same float64.

Source: Giulietti, The Schubfach way to render doubles (2020), as written down in A. Bolz's Drachennest.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from kernels.int128 import multiply_high
from kernels.parts import hot, part

POWER_MIN, POWER_MAX = -292, 324
_MANTISSA = (1 << 52) - 1
_HIDDEN = 1 << 52
CENTS_MAX = 10**15  # decimals of 15 digits are all different float64s, so one of them is the shortest

TENS = 10 ** np.arange(20, dtype=np.uint64)

U = np.uint64


@cache
def powers_of_ten() -> NDArray[np.uint64]:
    """Return (powers, 2) high and low halves of 10**k from POWER_MIN on, scaled to 128 bits and rounded up."""
    halves = []
    for k in range(POWER_MIN, POWER_MAX + 1):
        shift = ((k * 1741647) >> 19) - 127
        above, below = (10**k if k > 0 else 1) << max(-shift, 0), (10**-k if k < 0 else 1) << max(shift, 0)
        scaled = -(-above // below)
        halves.append((scaled >> 64, scaled & ((1 << 64) - 1)))
    return np.array(halves, np.uint64)


@part
def _round_to_odd(high, low, factor):
    """Return (high, low) * factor / 2**128, its last bit set if anything was cut off."""
    under = high * factor
    middle = under + multiply_high(low, factor)
    above = multiply_high(high, factor) + U(middle < under)
    return above | U(middle > U(1))


@hot
def shortest(bits, powers):
    """Return digits and exponent: the value is digits * 10**exponent, of a finite float64's bits without its sign.

    Digits may end in zeros.
    """
    mantissa, biased = np.int64(bits & U(_MANTISSA)), np.int64(bits >> U(52))
    if biased != 0:
        c, q = mantissa | _HIDDEN, biased - 1075
    else:
        c, q = mantissa, np.int64(-1074)
    closer_below = mantissa == 0 and biased > 1
    k = (q * 1262611 - (524031 if closer_below else 0)) >> 22
    shift = U(q + ((-k * 1741647) >> 19) + 1)
    high, low = powers[-k - POWER_MIN, 0], powers[-k - POWER_MIN, 1]
    odd = U(c & 1)
    lower = _round_to_odd(high, low, U(4 * c - 2 + closer_below) << shift) + odd
    value = _round_to_odd(high, low, U(4 * c) << shift)
    upper = _round_to_odd(high, low, U(4 * c + 2) << shift) - odd
    s = value >> U(2)
    if s >= U(10):
        tens = s // U(10)
        under, over = lower <= U(40) * tens, U(40) * tens + U(40) <= upper
        if under != over:
            return tens + U(over), k + 1
    under, over = lower <= U(4) * s, U(4) * s + U(4) <= upper
    if under != over:
        return s + U(over), k
    middle = U(4) * s + U(2)
    return s + U(value > middle or (value == middle and (s & U(1)) != U(0))), k


@hot
def as_cents(value):
    """Return a number above or equal to 0 as whole hundredths, or -1 if it is no such number below CENTS_MAX."""
    if not value < CENTS_MAX / 100:
        return np.int64(-1)
    cents = np.int64(value * 100.0 + 0.5)
    return cents if cents / 100.0 == value else np.int64(-1)
