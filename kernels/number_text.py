"""Numbers and bytes as text at an address: pieces of the kernels that write lines of CSV and JSON."""

import numpy as np

from kernels.parts import hot, part
from kernels.shortest import as_cents, shortest
from kernels.words import load_byte, load_word, store_word

NUMBER_BYTES = 26  # of the longest number, with room for a word that is stored whole

_POINT, _MINUS, _PLUS, _ZERO, _E = (ord(sign) for sign in ".-+0e")
_DECIMAL_MIN, _DECIMAL_MAX = -6, 10  # exponents that are written without one, as Arrow does
U = np.uint64


@hot
def _eight(value):
    """Return the 8 digits of a number below 10**8 as ASCII, the first in the lowest byte."""
    x = (value // U(10000)) | ((value % U(10000)) << U(32))
    q = ((x * U(10486)) >> U(20)) & U(0x0000007F0000007F)
    x = q | ((x - U(100) * q) << U(16))
    q = ((x * U(103)) >> U(10)) & U(0x000F000F000F000F)
    return (q | ((x - U(10) * q) << U(8))) | U(0x3030303030303030)


@part
def _put_digits(to, value, count):
    """Write the last `count` digits of a number, at most 24; up to 7 bytes behind them are written over."""
    if count > 16:
        _put_digits_8(to, value // U(10_000_000_000_000_000), count - 16)
        to, count = to + count - 16, 16
    if count > 8:
        _put_digits_8(to, (value // U(100_000_000)) % U(100_000_000), count - 8)
        to, count = to + count - 8, 8
    _put_digits_8(to, value % U(100_000_000), count)


@hot
def _put_digits_8(to, value, count):
    store_word(to, _eight(value) >> U(8 * (8 - count)) if count > 0 else U(0))


@hot
def _number_of_digits(value, tens):
    """Return how many digits a number has; 0 has one."""
    count = 1 if value < tens[8] else 9 if value < tens[15] else 16
    while count < 20 and value >= tens[count]:
        count += 1
    return count


@part
def _put_decimal(to, digits, exponent, tens):
    """Write digits * 10**exponent, whose digits end in no 0 unless exponent >= 0; return the address behind it."""
    count = _number_of_digits(digits, tens)
    point = count + exponent
    if exponent >= 0 and point <= _DECIMAL_MAX:
        _put_digits(to, digits, count)
        for place in range(exponent):
            store_word(to + count + place, U(_ZERO))
        return to + point
    if 0 < point <= _DECIMAL_MAX:
        below = tens[-exponent]
        _put_digits(to, digits // below, point)
        store_word(to + point, U(_POINT))
        _put_digits(to + point + 1, digits % below, -exponent)
        return to + count + 1
    if _DECIMAL_MIN < point <= 0:
        store_word(to, U(_ZERO | _POINT << 8))
        for place in range(-point):
            store_word(to + 2 + place, U(_ZERO))
        _put_digits(to + 2 - point, digits, count)
        return to + 2 - point + count
    while digits % U(10) == U(0):
        digits, count = digits // U(10), count - 1
    _put_digits(to, digits // tens[count - 1], 1)
    to += 1
    if count > 1:
        store_word(to, U(_POINT))
        _put_digits(to + 1, digits % tens[count - 1], count - 1)
        to += count
    power = point - 1
    store_word(to, U(_E | (_MINUS if power < 0 else _PLUS) << 8))
    if power < 0:
        power = -power
    width = 1 if power < 10 else 2 if power < 100 else 3
    _put_digits(to + 2, U(power), width)
    return to + 2 + width


@hot
def put_float(to, bits, powers, tens):
    """Write the shortest number that reads back the same, nothing for NaN; return the address behind it."""
    if bits >> U(63) != 0:
        bits &= U(0x7FFFFFFFFFFFFFFF)
        if bits > U(0x7FF0000000000000):
            return to
        store_word(to, U(_MINUS))
        to += 1
    if bits >= U(0x7FF0000000000000):
        if bits == U(0x7FF0000000000000):
            store_word(to, U(0x666E69))  # inf
            return to + 3
        return to
    value = np.int64(bits).view(np.float64)
    cents = as_cents(value)
    if cents >= 0:
        whole = cents // 100
        rest = cents - 100 * whole
        if rest == 0:
            return _put_decimal(to, U(whole), 0, tens)
        if rest % 10 == 0:
            return _put_decimal(to, U(cents // 10), -1, tens)
        return _put_decimal(to, U(cents), -2, tens)
    digits, exponent = shortest(bits, powers)
    while exponent < 0 and digits % U(10) == U(0):
        digits, exponent = digits // U(10), exponent + 1
    return _put_decimal(to, digits, exponent, tens)


@hot
def put_text(to, source, size):
    """Copy `size` bytes; return the address behind them."""
    if size >= 8:
        for place in range(0, size - 7, 8):
            store_word(to + place, load_word(source + place))
        store_word(to + size - 8, load_word(source + size - 8))
    else:
        for place in range(size):
            store_word(to + place, U(load_byte(source + place)))
    return to + size


@hot
def put_integer(to, value, tens):
    """Write an int64; return the address behind it."""
    if value < 0:
        store_word(to, U(_MINUS))
        to += 1
    size = U(-value) if value < 0 else U(value)
    count = _number_of_digits(size, tens)
    _put_digits(to, size, count)
    return to + count
