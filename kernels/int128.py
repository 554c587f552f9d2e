"""128-bit integers as pairs of 64-bit halves: what makes sums of squares exact.

A pair is (low, high) in two's complement, both held as int64. All operations wrap modulo 2**128, so
differences of running totals are exact as long as the difference itself fits.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.parts import part

_WIDE = ir.IntType(128)
_WORD = ir.IntType(64)
_PAIR = types.UniTuple(types.int64, 2)


def _join(builder: Any, low: Any, high: Any) -> Any:
    shifted = builder.shl(builder.sext(high, _WIDE), ir.Constant(_WIDE, 64))
    return builder.or_(builder.zext(low, _WIDE), shifted)


def _split(context: Any, builder: Any, wide: Any) -> Any:
    low = builder.trunc(wide, _WORD)
    high = builder.trunc(builder.lshr(wide, ir.Constant(_WIDE, 64)), _WORD)
    return cgutils.pack_array(builder, [low, high])


@intrinsic
def add_product(typing_context: Any, low: Any, high: Any, a: Any, b: Any) -> Any:
    """Return (low, high) + a * b."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        product = builder.mul(builder.sext(args[2], _WIDE), builder.sext(args[3], _WIDE))
        return _split(context, builder, builder.add(_join(builder, args[0], args[1]), product))

    return _PAIR(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def subtract(typing_context: Any, low: Any, high: Any, low2: Any, high2: Any) -> Any:
    """Return (low, high) - (low2, high2)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        left, right = _join(builder, args[0], args[1]), _join(builder, args[2], args[3])
        return _split(context, builder, builder.sub(left, right))

    return _PAIR(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def multiply_high(typing_context: Any, left: Any, right: Any) -> Any:
    """Return the high half of the product of two uint64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        product = builder.mul(builder.zext(args[0], _WIDE), builder.zext(args[1], _WIDE))
        return builder.trunc(builder.lshr(product, ir.Constant(_WIDE, 64)), _WORD)

    return types.uint64(types.uint64, types.uint64), codegen


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
    low, high = add_product(low, high, -2 * centre, total)  # type: ignore[call-arg, misc]
    low, high = add_product(low, high, count * centre, centre)  # type: ignore[call-arg, misc]
    return to_float(low, high) - float(rest) * float(rest) / count
