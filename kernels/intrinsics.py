"""What numba does not offer by itself, in LLVM's words: 128 bits, unaligned words, prefetching.

Imported only where a kernel is compiled: kernels name these through `kernels.parts.Intrinsic`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.machine_code import has_crc32_instruction

_BYTE = ir.IntType(8)
_INT = ir.IntType(32)
_WIDE = ir.IntType(128)
_WORD = ir.IntType(64)
_PAIR = types.UniTuple(types.int64, 2)


def _emit(context: Any, builder: Any, array_type: Any, array: Any, element: Any) -> Any:
    """Prefetch the cache line of the element with that flat index."""
    view = context.make_array(array_type)(context, builder, array)
    address = builder.bitcast(builder.gep(view.data, [element]), _BYTE.as_pointer())
    name = f"llvm.prefetch.p0{'' if getattr(address.type, 'is_opaque', True) else 'i8'}"
    kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INT, _INT, _INT])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(function, [address, _INT(0), _INT(3), _INT(1)])
    return context.get_dummy_value()


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Prefetch element `index` of a contiguous array, counted over all its dimensions; it must lie in the array."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit(context, builder, signature.args[0], args[0], args[1])

    return types.void(array, types.int64), codegen


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


@intrinsic
def store_byte(typing_context: Any, address: Any, byte: Any) -> Any:
    """Store the lowest byte of an int64 at an address; the caller makes sure that it is its own."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.PointerType(_BYTE))
        builder.store(builder.trunc(args[1], _BYTE), pointer, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def crc32c_word(typing_context: Any, crc: Any, word: Any) -> Any:
    """Take 8 bytes into a CRC-32C, by the processor's instruction; only where there is one."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not has_crc32_instruction():  # never called there, but compiled with all kernels
            return args[0]
        kind = ir.FunctionType(_WORD, [_WORD, _WORD])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse42.crc32.64.64"), args)

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def crc32c_byte(typing_context: Any, crc: Any, byte: Any) -> Any:
    """Take one byte into a CRC-32C, by the processor's instruction; only where there is one."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not has_crc32_instruction():
            return args[0]
        kind = ir.FunctionType(_INT, [_INT, _BYTE])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse42.crc32.32.8")
        found = builder.call(function, [builder.trunc(args[0], _INT), builder.trunc(args[1], _BYTE)])
        return builder.zext(found, _WORD)

    return types.uint64(types.uint64, types.int64), generate
