"""Eight bytes at a time: unaligned loads and bit tricks that numba does not offer by itself."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# Arrow's buffers are read-only; a kernel whose signature says so takes writable arrays too.
BYTES = "Array(uint8, 1, 'C', readonly=True)"
INT32S = "Array(int32, 1, 'C', readonly=True)"
INT64S = "Array(int64, 1, 'C', readonly=True)"
UINT64S = "Array(uint64, 1, 'C', readonly=True)"

ONES = np.uint64(0x0101010101010101)
HIGHS = np.uint64(0x8080808080808080)


@intrinsic
def address_of(typing_context: Any, data: Any) -> Any:
    """Return the address of data[0] as int64, valid while the caller's caller holds the array.

    Helpers of a hot loop take addresses: numba counts references around each call that takes an array (20 ns).
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.ptrtoint(array.data, ir.IntType(64))

    return types.int64(data), generate


def _loader(bits: int, result: Any) -> Any:
    """Build an intrinsic body that loads `bits` bits from an address of any alignment, widened to `result`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.PointerType(ir.IntType(bits)))
        word = builder.load(pointer, align=1)
        return word if bits == result.bitwidth else builder.zext(word, ir.IntType(result.bitwidth))

    return result(types.int64), generate


@intrinsic
def load_word(typing_context: Any, address: Any) -> Any:
    """Load the 8 bytes at an address as one little-endian uint64; the caller makes sure that they exist."""
    return _loader(64, types.uint64)


@intrinsic
def load_half(typing_context: Any, address: Any) -> Any:
    """Load the 4 bytes at an address as a little-endian integer, as uint64; the caller makes sure that they exist."""
    return _loader(32, types.uint64)


@intrinsic
def load_byte(typing_context: Any, address: Any) -> Any:
    """Load the byte at an address, widened to int64; the caller makes sure that it exists."""
    return _loader(8, types.int64)


@intrinsic
def trailing_zeros(typing_context: Any, word: Any) -> Any:
    """Count the zero bits below the lowest set bit of a uint64; 64 for zero."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def fold(typing_context: Any, left: Any, right: Any) -> Any:
    """Multiply two uint64 to 128 bits and return the high half xor the low half."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        high = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))
        return builder.xor(high, builder.trunc(product, ir.IntType(64)))

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def store_word(typing_context: Any, address: Any, word: Any) -> Any:
    """Store a uint64 as 8 little-endian bytes at an address; the caller makes sure that they are its own."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.PointerType(ir.IntType(64)))
        builder.store(args[1], pointer, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), generate
