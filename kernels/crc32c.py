"""CRC-32C (Castagnoli), the checksum of Kafka's record batches: with the processor's instruction, or with tables."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import njit
from kernels.machine_code import has_crc32_instruction
from kernels.parts import Intrinsic
from kernels.words import BYTES, address_of, load_byte, load_word

_POLYNOMIAL = 0x82F63B78  # bits in reverse
_LOW = np.uint64(0xFF)
_next_word = Intrinsic("crc32c_word")  # (checksum, uint64) -> checksum
_next_byte = Intrinsic("crc32c_byte")  # (checksum, int64) -> checksum


def crc32c(data: NDArray[np.uint8]) -> int:
    """Return the checksum of some bytes.

    Args:
        data: (bytes,) uint8.

    Source: RFC 3720, appendix B.4; tables as in Kounavis and Berry, "A systematic approach to building high performance
    software-based CRC generators" (2005), "slicing by 8".

    >>> hex(crc32c(np.frombuffer(b"123456789", np.uint8)))
    '0xe3069283'
    """
    return int(_by_instruction(data) if has_crc32_instruction() else by_tables(data, tables()))


@cache
def tables() -> NDArray[np.uint64]:
    """Return (8, 256): what a byte does to the checksum when 0 to 7 bytes follow it."""
    made = np.zeros((8, 256), np.uint64)
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        made[0, byte] = value
    for after in range(1, 8):
        before = made[after - 1]
        made[after] = (before >> np.uint64(8)) ^ made[0][(before & _LOW).astype(np.int64)]
    return made


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
