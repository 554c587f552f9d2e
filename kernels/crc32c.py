"""CRC-32C (Castagnoli), the checksum of Kafka's record batches: with the processor's instruction, or with tables."""

import functools
import platform
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from kernels.compiled import njit
from kernels.words import BYTES, address_of, load_byte, load_word

_POLYNOMIAL = 0x82F63B78  # bits in reverse
_LOW = np.uint64(0xFF)


def crc32c(data: NDArray[np.uint8]) -> int:
    """Return the checksum of some bytes.

    Args:
        data: (bytes,) uint8.

    Source: RFC 3720, appendix B.4; tables as in Kounavis and Berry, "A systematic approach to building high performance
    software-based CRC generators" (2005), "slicing by 8".

    >>> hex(crc32c(np.frombuffer(b"123456789", np.uint8)))
    '0xe3069283'
    """
    return int(_by_instruction(data) if has_instruction() else by_tables(data, TABLES))


@functools.cache
def has_instruction() -> bool:
    """Tell whether this processor has an instruction for it (x86 since 2008)."""
    return platform.machine() in ("x86_64", "AMD64") and bool(get_host_cpu_features().get("sse4.2"))


def _make_tables() -> NDArray[np.uint64]:
    """Return (8, 256): what a byte does to the checksum when 0 to 7 bytes follow it."""
    tables = np.zeros((8, 256), np.uint64)
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        tables[0, byte] = value
    for after in range(1, 8):
        before = tables[after - 1]
        tables[after] = (before >> np.uint64(8)) ^ tables[0][(before & _LOW).astype(np.int64)]
    return tables


TABLES = _make_tables()


@njit(f"uint64({BYTES}, uint64[:, ::1])")
def by_tables(data, tables):
    """Return the checksum, eight bytes at a time."""
    base = address_of(data)
    crc = np.uint64(0xFFFFFFFF)
    at, words = 0, data.size - 7
    while at < words:
        word = load_word(base + at) ^ crc
        crc = (
            tables[7, word & _LOW]
            ^ tables[6, (word >> np.uint64(8)) & _LOW]
            ^ tables[5, (word >> np.uint64(16)) & _LOW]
            ^ tables[4, (word >> np.uint64(24)) & _LOW]
            ^ tables[3, (word >> np.uint64(32)) & _LOW]
            ^ tables[2, (word >> np.uint64(40)) & _LOW]
            ^ tables[1, (word >> np.uint64(48)) & _LOW]
            ^ tables[0, word >> np.uint64(56)]
        )
        at += 8
    while at < data.size:
        crc = tables[0, (crc ^ np.uint64(load_byte(base + at))) & _LOW] ^ (crc >> np.uint64(8))
        at += 1
    return crc ^ np.uint64(0xFFFFFFFF)


@intrinsic
def _next_word(typing_context: Any, crc: Any, word: Any) -> Any:
    """Take 8 bytes into the checksum, by the instruction."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not has_instruction():  # never called there, but compiled with all kernels
            return args[0]
        wide = ir.IntType(64)
        kind = ir.FunctionType(wide, [wide, wide])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse42.crc32.64.64"), args)

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def _next_byte(typing_context: Any, crc: Any, byte: Any) -> Any:
    """Take one byte into the checksum, by the instruction."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not has_instruction():
            return args[0]
        word, byte = ir.IntType(32), ir.IntType(8)
        kind = ir.FunctionType(word, [word, byte])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse42.crc32.32.8")
        found = builder.call(function, [builder.trunc(args[0], word), builder.trunc(args[1], byte)])
        return builder.zext(found, ir.IntType(64))

    return types.uint64(types.uint64, types.int64), generate


@njit(f"uint64({BYTES})")
def _by_instruction(data):
    base = address_of(data)
    crc = np.uint64(0xFFFFFFFF)
    at, words = 0, data.size - 7
    while at < words:
        crc = _next_word(crc, load_word(base + at))
        at += 8
    while at < data.size:
        crc = _next_byte(crc, load_byte(base + at))
        at += 1
    return crc ^ np.uint64(0xFFFFFFFF)
