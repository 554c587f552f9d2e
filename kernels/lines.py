"""Where lines end in a block of bytes."""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import njit
from kernels.words import BYTES, address_of, load_byte, load_word, trailing_zeros

_NEWLINES = np.uint64(0x0A0A0A0A0A0A0A0A)
_LOW_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)


def line_ends(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    r"""Find the position behind every newline.

    Args:
        data: (bytes,) uint8.

    Returns:
        (newlines,) int64, rising.

    >>> line_ends(np.frombuffer(b"a\n\nbc", np.uint8))
    array([2, 3])
    """
    ends = np.empty(max(data.size // 32, 16), np.int64)
    found = _line_ends(data, ends)
    if found > ends.size:  # shorter lines than expected: now the number is known
        ends = np.empty(found, np.int64)
        _line_ends(data, ends)
    return ends[:found]


@njit(f"int64({BYTES}, int64[::1])")
def _line_ends(data, ends):
    """Write as many ends as fit, and return how many there are."""
    base = address_of(data)
    found, at, words = 0, 0, data.size - 7
    while at < words:
        differs = load_word(base + at) ^ _NEWLINES
        # The high bit of each zero byte, exactly: no borrow runs from one byte into the next.
        hits = ~(((differs & _LOW_BITS) + _LOW_BITS) | differs | _LOW_BITS)
        while hits != np.uint64(0):
            if found < ends.size:
                ends[found] = at + (trailing_zeros(hits) >> 3) + 1
            found += 1
            hits &= hits - np.uint64(1)
        at += 8
    while at < data.size:
        if load_byte(base + at) == 10:
            if found < ends.size:
                ends[found] = at + 1
            found += 1
        at += 1
    return found
