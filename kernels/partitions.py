"""Which partition a key belongs to, as Kafka's own producers choose it."""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import njit
from kernels.words import BYTES, INT32S, INT64S, address_of, load_byte, load_half

_SEED = np.uint32(0x9747B28C)
_MULTIPLIER = np.uint32(0x5BD1E995)
_POSITIVE = np.uint32(0x7FFFFFFF)


def partitions_of_bytes(
    offsets: NDArray[np.int32] | NDArray[np.int64], data: NDArray[np.uint8], partitions: int
) -> NDArray[np.int64]:
    """Return the partition of each of the byte strings data[offsets[i] : offsets[i + 1]].

    Args:
        offsets: (n + 1,) int32 or int64, never decreasing, within `data`.
        data: (bytes,) uint8.
        partitions: how many there are, at least 1.

    Returns:
        (n,) int64, from 0 to `partitions` - 1.

    Source: `BuiltInPartitioner.partitionForKey` of Apache Kafka: murmur2, its sign cut off, modulo the partitions.

    >>> partitions_of_bytes(np.array([0, 2], np.int32), np.frombuffer(b"21", np.uint8), 8)
    array([4])
    """
    if partitions < 1:
        raise ValueError(f"there are {partitions} partitions to choose from; give at least 1")
    if offsets.size and (offsets[0] < 0 or offsets[-1] > data.size):
        raise ValueError(f"offsets run from {offsets[0]} to {offsets[-1]}, outside the {data.size} bytes of data")
    chosen = np.empty(max(offsets.size - 1, 0), np.int64)
    _partitions(offsets, data, partitions, chosen)
    return chosen


@njit([f"void({offsets}, {BYTES}, int64, int64[::1])" for offsets in (INT32S, INT64S)])
def _partitions(offsets, data, partitions, chosen):
    base = address_of(data)
    for i in range(chosen.size):
        at, end = base + np.int64(offsets[i]), base + np.int64(offsets[i + 1])
        mixed = np.uint32(_SEED ^ np.uint32(end - at))
        while end - at >= 4:
            word = np.uint32(np.uint32(load_half(at)) * _MULTIPLIER)
            word = np.uint32(np.uint32(word ^ (word >> np.uint32(24))) * _MULTIPLIER)
            mixed = np.uint32(np.uint32(mixed * _MULTIPLIER) ^ word)
            at += 4
        if end - at >= 3:
            mixed = np.uint32(mixed ^ (np.uint32(load_byte(at + 2)) << np.uint32(16)))
        if end - at >= 2:
            mixed = np.uint32(mixed ^ (np.uint32(load_byte(at + 1)) << np.uint32(8)))
        if end - at >= 1:
            mixed = np.uint32(np.uint32(mixed ^ np.uint32(load_byte(at))) * _MULTIPLIER)
        mixed = np.uint32(np.uint32(mixed ^ (mixed >> np.uint32(13))) * _MULTIPLIER)
        mixed = np.uint32(mixed ^ (mixed >> np.uint32(15)))
        chosen[i] = np.int64(mixed & _POSITIVE) % partitions
