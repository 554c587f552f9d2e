"""Turn the cells that a scan found into numbers and text, one field of many records at a time."""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import njit
from kernels.json_tokens import ESCAPED, FLOAT, INTEGER, MISSING, NULL, TEXT
from kernels.unescape import unescape, unquote
from kernels.words import BYTES, INT32S, address_of, load_byte, load_word, store_word

QUOTED = 10  # a kind beside those of JSON: CSV text with doubled quotes in it

ABSENT, GOOD, WRONG_KIND, UNREADABLE, HARD = range(5)  # states of a cell

_EXACT = 1 << 53
_TENS = 10.0 ** np.arange(23)  # the powers of ten that float64 holds exactly
_HUGE_EXPONENT = 400
_LARGEST = (1 << 63) - 1

States = NDArray[np.uint8]


def read_integers(
    data: NDArray[np.uint8], kinds: NDArray[np.uint8], starts: NDArray[np.int32], ends: NDArray[np.int32]
) -> tuple[NDArray[np.int64], States]:
    """Read INTEGER cells as (records,) int64; beyond 18 digits the largest or smallest int64. Others: WRONG_KIND."""
    values, states = np.zeros(kinds.size, np.int64), np.empty(kinds.size, np.uint8)
    _read_integers(data, kinds, starts, ends, values, states)
    return values, states


def read_floats(
    data: NDArray[np.uint8], kinds: NDArray[np.uint8], starts: NDArray[np.int32], ends: NDArray[np.int32]
) -> tuple[NDArray[np.float64], States]:
    """Read INTEGER and FLOAT cells as (records,) float64, correctly rounded or HARD.

    HARD ones need more than one exact operation and are left 0 for the caller to read; numbers that are certainly too
    large become infinite, those certainly too small 0.

    Source: Clinger, How to read floating point numbers accurately (PLDI 1990), the fast path.
    """
    values, states = np.zeros(kinds.size, np.float64), np.empty(kinds.size, np.uint8)
    _read_floats(data, kinds, starts, ends, _TENS, values, states)
    return values, states


def read_text(
    data: NDArray[np.uint8], kinds: NDArray[np.uint8], starts: NDArray[np.int32], ends: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.uint8], States]:
    """Copy TEXT, ESCAPED and QUOTED cells, unescaped: offsets (records + 1,) int32, their bytes, and states."""
    room = int(np.sum(np.maximum(ends - starts, 0), where=kinds >= TEXT, dtype=np.int64)) + 8
    offsets, out = np.zeros(kinds.size + 1, np.int32), np.empty(room, np.uint8)
    states = np.empty(kinds.size, np.uint8)
    size: int = _read_text(data, kinds, starts, ends, offsets, out, states)
    return offsets, out[:size], states


@njit(f"void({BYTES}, {BYTES}, {INT32S}, {INT32S}, int64[::1], uint8[::1])")
def _read_integers(data, kinds, starts, ends, values, states):
    base = address_of(data)
    for i in range(kinds.size):
        if kinds[i] != INTEGER:
            states[i] = ABSENT if kinds[i] == MISSING or kinds[i] == NULL else WRONG_KIND
            continue
        states[i] = GOOD
        at, end, value, digits = base + starts[i], base + ends[i], np.int64(0), np.int64(0)
        negative = load_byte(at) == 45
        if negative or load_byte(at) == 43:
            at += 1
        while at < end:
            value = value * 10 + (load_byte(at) - 48)
            digits += value != 0
            at += 1
            if digits > 18:
                value = np.int64(_LARGEST)
                break
        values[i] = -value if negative else value


@njit(f"void({BYTES}, {BYTES}, {INT32S}, {INT32S}, float64[::1], float64[::1], uint8[::1])")
def _read_floats(data, kinds, starts, ends, tens, values, states):
    base = address_of(data)
    for i in range(kinds.size):
        if kinds[i] != INTEGER and kinds[i] != FLOAT:
            states[i] = ABSENT if kinds[i] == MISSING or kinds[i] == NULL else WRONG_KIND
            continue
        at, end = base + starts[i], base + ends[i]
        negative = load_byte(at) == 45
        if negative or load_byte(at) == 43:
            at += 1
        mantissa, digits, exponent, behind_point = np.uint64(0), 0, 0, 0
        while at < end:
            byte = load_byte(at)
            if 48 <= byte <= 57:
                if digits < 19:
                    mantissa = mantissa * np.uint64(10) + np.uint64(byte - 48)
                    exponent -= behind_point
                else:
                    exponent += 1 - behind_point
                digits += mantissa != np.uint64(0)
            elif byte == 46:
                behind_point = 1
            else:
                break
            at += 1
        if at < end:
            written, at = 0, at + 1
            below_one = load_byte(at) == 45
            if below_one or load_byte(at) == 43:
                at += 1
            while at < end:
                written = min(written * 10 + load_byte(at) - 48, 1 << 40)
                at += 1
            exponent += -written if below_one else written
        states[i] = GOOD
        if mantissa == np.uint64(0):
            value = 0.0
        elif digits <= 19 and mantissa <= np.uint64(_EXACT) and -22 <= exponent <= 22:
            value = np.float64(mantissa)
            value = value * tens[exponent] if exponent >= 0 else value / tens[-exponent]
        elif exponent > _HUGE_EXPONENT or exponent < -_HUGE_EXPONENT:
            value = np.inf if exponent > 0 else 0.0
        else:
            value = 0.0
            states[i] = HARD
        values[i] = -value if negative else value


@njit(f"int64({BYTES}, {BYTES}, {INT32S}, {INT32S}, int32[::1], uint8[::1], uint8[::1])")
def _read_text(data, kinds, starts, ends, offsets, out, states):
    base, limit, target = address_of(data), address_of(data) + data.size, address_of(out)
    size = 0
    for i in range(kinds.size):
        states[i] = GOOD
        at, end = base + starts[i], base + ends[i]
        if kinds[i] == TEXT:
            copied = target + size
            size += end - at
            while at < end and at + 8 <= limit:  # may write 7 bytes too many: the next text, or the room, takes them
                store_word(copied, load_word(at))
                at, copied = at + 8, copied + 8
            while at < end:
                out[copied - target] = load_byte(at)
                at, copied = at + 1, copied + 1
        elif kinds[i] == ESCAPED:
            size = unescape(at, end, out, size)
        elif kinds[i] == QUOTED:
            size = unquote(at, end, out, size)
        else:
            states[i] = ABSENT if kinds[i] == MISSING or kinds[i] == NULL else WRONG_KIND
        offsets[i + 1] = size
    return size
