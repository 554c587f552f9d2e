"""64-bit hashes of keys, straight from Arrow's buffers.

The hash is wyhash's scheme: eight bytes at a time, each pair folded by a 128-bit product. It is fast and spreads well;
it is no defence against someone who knows the seed and searches for collisions.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import njit
from kernels.words import BYTES, INT32S, INT64S, UINT64S, address_of, fold, load_byte, load_half, load_word

UInt64s = NDArray[np.uint64]

SEED = 0x5045_4C54_4F4E_0001  # kept for ever: state on disk is keyed by these hashes
NULL_HASH = 0  # only a null hashes to zero

_FIRST = np.uint64(0xA0761D6478BD642F)
_SECOND = np.uint64(0xE7037ED1A0B428DB)
_THIRD = np.uint64(0x8EBC6AF09C88C6E3)
_INSTEAD_OF_ZERO = np.uint64(0x589965CC75374CC3)


def hash_bytes(offsets: NDArray[np.int32] | NDArray[np.int64], data: NDArray[np.uint8], seed: int = SEED) -> UInt64s:
    """Hash each of the byte strings data[offsets[i] : offsets[i + 1]].

    Args:
        offsets: (n + 1,) int32 or int64, never decreasing, within `data`.
        data: (bytes,) uint8.
        seed: 64 bits; another seed gives an unrelated hash.

    Returns:
        (n,) uint64, never zero.

    Source: Wang Yi, wyhash final version 4 (github.com/wangyi-fudan/wyhash), with one lane.

    >>> hash_bytes(np.array([0, 1, 2], np.int32), np.frombuffer(b"aa", np.uint8))
    array([12518667588066739753, 12518667588066739753], dtype=uint64)
    """
    if offsets.size and (offsets[0] < 0 or offsets[-1] > data.size):
        raise ValueError(f"offsets run from {offsets[0]} to {offsets[-1]}, outside the {data.size} bytes of data")
    hashes = np.empty(max(offsets.size - 1, 0), np.uint64)
    _hash_bytes(offsets, data, np.uint64(seed), hashes)
    return hashes


def hash_ints(values: NDArray[np.int64], seed: int = SEED) -> UInt64s:
    """Hash each of (n,) int64 to (n,) uint64, never zero."""
    hashes = np.empty(values.size, np.uint64)
    _hash_words(np.ascontiguousarray(values).view(np.uint64), np.uint64(seed), hashes)
    return hashes


def hash_bools(values: NDArray[np.bool_], seed: int = SEED) -> UInt64s:
    """Hash each of (n,) bool to (n,) uint64: the hashes of the integers 0 and 1."""
    both = hash_ints(np.array([0, 1], np.int64), seed)
    return both[values.astype(np.int64)]


@njit([f"void({offsets}, {BYTES}, uint64, uint64[::1])" for offsets in (INT32S, INT64S)])
def _hash_bytes(offsets, data, seed, hashes):
    start_state = seed ^ fold(seed ^ _FIRST, _SECOND)
    base = address_of(data)
    for i in range(hashes.size):
        start, end = base + np.int64(offsets[i]), base + np.int64(offsets[i + 1])
        size = end - start
        state = start_state
        low, high = np.uint64(0), np.uint64(0)
        if size > 16:
            at = start
            while end - at > 16:
                state = fold(load_word(at) ^ _SECOND, load_word(at + 8) ^ state)
                at += 16
            low, high = load_word(end - 16), load_word(end - 8)
        elif size >= 8:
            low, high = load_word(start), load_word(end - 8)
        elif size >= 4:
            low, high = load_half(start), load_half(end - 4)
        elif size > 0:
            low = np.uint64(load_byte(start) << 16 | load_byte(start + (size >> 1)) << 8 | load_byte(end - 1))
        mixed = fold(low ^ _SECOND, high ^ state)
        mixed = fold(_THIRD ^ np.uint64(size), mixed ^ _SECOND)
        hashes[i] = mixed if mixed != np.uint64(0) else _INSTEAD_OF_ZERO


@njit(f"void({UINT64S}, uint64, uint64[::1])")
def _hash_words(words, seed, hashes):
    for i in range(words.size):
        mixed = fold(fold(words[i] ^ _SECOND, seed ^ _FIRST) ^ _THIRD, _SECOND ^ words[i])
        hashes[i] = mixed if mixed != np.uint64(0) else _INSTEAD_OF_ZERO
