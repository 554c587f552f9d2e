"""The grammar of JSON over raw memory: each part skips one token and says where it ends and what it was.

Parts take addresses, `at` (the first byte), `end` (behind the record) and `limit` (behind the buffer, so that whole
words may be loaded up to there). They return (at behind the token, kind), or (where it went wrong, -status).

Source: RFC 8259; strings must be valid UTF-8 (RFC 3629), without halves of surrogate pairs.
"""

import numpy as np

from kernels.parts import part
from kernels.words import HIGHS, ONES, load_byte, load_word, trailing_zeros

MISSING, NULL, TRUE, FALSE, INTEGER, FLOAT, TEXT, ESCAPED, OBJECT, ARRAY = range(10)

(FITS, EMPTY, NOT_AN_OBJECT, CUT_OFF, NEWLINE, TRAILING, SYNTAX, BAD_NUMBER, NOT_FINITE, BAD_CONTROL, BAD_ESCAPE,
 BAD_UTF8, TOO_DEEP, TOO_LONG, TWICE, TOO_FEW_CELLS, TOO_MANY_CELLS, OPEN_QUOTE) = range(18)  # fmt: skip

DEEPEST = 64

_QUOTES = np.uint64(0x2222222222222222)
_BACKSLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)
_SPACES = np.uint64(0x2020202020202020)


@part
def skip_space(at, end):
    """Skip blanks; a newline is none, since it ends a record."""
    while at < end:
        byte = load_byte(at)
        if byte != 32 and byte != 9 and byte != 13:
            break
        at += 1
    return at


@part
def wrong(at, end, status):
    """Return the failure of a token at `at`: something worse if the record ends or a new line starts there."""
    if at >= end:
        return end, -CUT_OFF
    return at, -(NEWLINE if load_byte(at) == 10 else status)


@part
def skip_utf8(at, end):
    """Skip one character that is not ASCII; return its start if it is malformed."""
    first = load_byte(at)
    size = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    if first < 0xC2 or first > 0xF4 or at + size > end:
        return at
    second = load_byte(at + 1)
    lowest = 0xA0 if first == 0xE0 else 0x90 if first == 0xF0 else 0x80
    highest = 0x9F if first == 0xED else 0x8F if first == 0xF4 else 0xBF
    if second < lowest or second > highest:
        return at
    for i in range(2, size):
        if load_byte(at + i) & 0xC0 != 0x80:
            return at
    return at + size


@part
def hex_value(at):
    """Return the number that four hexadecimal digits write, -1 if they are none."""
    value = 0
    for i in range(4):
        byte = load_byte(at + i)
        if 48 <= byte <= 57:
            digit = byte - 48
        elif 97 <= byte | 32 <= 102:
            digit = (byte | 32) - 87
        else:
            return -1
        value = value << 4 | digit
    return value


@part
def skip_escape(at, end):
    """Skip a backslash and what it escapes; return its start if that is nothing JSON knows."""
    if at + 1 >= end:
        return at
    byte = load_byte(at + 1)
    if byte != 117:  # u
        known = byte == 34 or byte == 92 or byte == 47 or byte == 98 or byte == 102 or byte == 110
        return at + 2 if known or byte == 114 or byte == 116 else at
    if at + 6 > end:
        return at
    code = hex_value(at + 2)
    if code < 0 or 0xDC00 <= code < 0xE000:
        return at
    if code < 0xD800 or code >= 0xE000:
        return at + 6
    if at + 12 > end or load_byte(at + 6) != 92 or load_byte(at + 7) != 117:
        return at
    low = hex_value(at + 8)
    return at + 12 if 0xDC00 <= low < 0xE000 else at


@part
def skip_string(at, end, limit):
    """Skip a string, from behind its opening quote to its closing quote (which is where it stops)."""
    kind = TEXT
    while at < end:
        if at + 8 <= limit:
            word = load_word(at)
            quotes, backslashes = word ^ _QUOTES, word ^ _BACKSLASHES
            # Each term marks its lowest byte right; what it marks above that one is not looked at.
            hits = (quotes - ONES) & ~quotes | (backslashes - ONES) & ~backslashes | (word - _SPACES) & ~word | word
            hits &= HIGHS
            if hits == np.uint64(0):
                at += 8
                continue
            at += trailing_zeros(hits) >> 3
            if at >= end:
                break
        byte = load_byte(at)
        if byte == 34:
            return at, kind
        start = at
        if byte == 92:
            kind = ESCAPED
            at = skip_escape(at, end)
        elif byte < 32:
            return wrong(at, end, BAD_CONTROL)
        elif byte >= 128:
            at = skip_utf8(at, end)
        else:
            at += 1
        if at == start:
            return at, -(BAD_ESCAPE if byte == 92 else BAD_UTF8)
    return end, -CUT_OFF


@part
def skip_digits(at, end):
    """Skip decimal digits."""
    while at < end and 48 <= load_byte(at) <= 57:
        at += 1
    return at


@part
def skip_number(at, end):
    """Skip a number that starts with a minus sign or a digit."""
    kind = INTEGER
    if load_byte(at) == 45:
        at += 1
    digits = at
    at = skip_digits(at, end)
    if at == digits:
        if at < end and load_byte(at) == 73:  # -Infinity
            return at, -NOT_FINITE
        return wrong(at, end, BAD_NUMBER)
    if load_byte(digits) == 48 and at > digits + 1:
        return digits, -BAD_NUMBER
    if at < end and load_byte(at) == 46:
        kind, digits = FLOAT, at + 1
        at = skip_digits(digits, end)
        if at == digits:
            return wrong(at, end, BAD_NUMBER)
    if at < end and load_byte(at) | 32 == 101:
        kind, at = FLOAT, at + 1
        if at < end and (load_byte(at) == 43 or load_byte(at) == 45):
            at += 1
        digits = at
        at = skip_digits(digits, end)
        if at == digits:
            return wrong(at, end, BAD_NUMBER)
    return at, kind


@part
def skip_word(at, end):
    """Skip null, true or false."""
    byte = load_byte(at)
    size = 5 if byte == 102 else 4
    if at + size <= end:
        second, third, fourth = load_byte(at + 1), load_byte(at + 2), load_byte(at + 3)
        if byte == 110 and second == 117 and third == 108 and fourth == 108:
            return at + 4, NULL
        if byte == 116 and second == 114 and third == 117 and fourth == 101:
            return at + 4, TRUE
        if byte == 102 and second == 97 and third == 108 and fourth == 115 and load_byte(at + 4) == 101:
            return at + 5, FALSE
    return at, -(NOT_FINITE if byte == 78 or byte == 73 else SYNTAX)  # NaN, Infinity


@part
def skip_scalar(at, end, limit):
    """Skip a string (quotes included), number, boolean or null."""
    if at >= end:
        return end, -CUT_OFF
    byte = load_byte(at)
    if byte == 34:
        at, kind = skip_string(at + 1, end, limit)
        return (at + 1, kind) if kind >= 0 else (at, kind)
    if byte == 45 or 48 <= byte <= 57:
        return skip_number(at, end)
    if byte == 10:
        return at, -NEWLINE
    return skip_word(at, end)


@part
def skip_colon(at, end):
    """Skip a colon and the blanks around it."""
    at = skip_space(at, end)
    if at >= end or load_byte(at) != 58:
        return wrong(at, end, SYNTAX)
    return skip_space(at + 1, end), NULL


@part
def skip_key(at, end, limit):
    """Skip a key of a nested object, and its colon."""
    at = skip_space(at, end)
    if at >= end or load_byte(at) != 34:
        return wrong(at, end, SYNTAX)
    at, kind = skip_string(at + 1, end, limit)
    if kind < 0:
        return at, kind
    return skip_colon(at + 1, end)


@part
def skip_nested(at, end, limit):
    """Skip an object or array with all that it holds; bit i of `objects` says whether level i is an object."""
    outermost = OBJECT if load_byte(at) == 123 else ARRAY
    objects, depth = np.uint64(0), 0
    while True:
        at = skip_space(at, end)
        if at < end and (load_byte(at) == 123 or load_byte(at) == 91):
            if depth == DEEPEST:
                return at, -TOO_DEEP
            is_object = load_byte(at) == 123
            depth += 1
            objects = objects << np.uint64(1) | np.uint64(is_object)
            at = skip_space(at + 1, end)
            if at >= end or load_byte(at) != (125 if is_object else 93):  # not empty
                if is_object:
                    at, kind = skip_key(at, end, limit)
                    if kind < 0:
                        return at, kind
                continue
        else:
            at, kind = skip_scalar(at, end, limit)
            if kind < 0:
                return at, kind
        while True:  # behind a value
            at = skip_space(at, end)
            is_object = objects & np.uint64(1) != np.uint64(0)
            if at < end and load_byte(at) == (125 if is_object else 93):
                at, depth, objects = at + 1, depth - 1, objects >> np.uint64(1)
                if depth == 0:
                    return at, outermost
                continue
            if at >= end or load_byte(at) != 44:
                return wrong(at, end, SYNTAX)
            at += 1
            if is_object:
                at, kind = skip_key(at, end, limit)
                if kind < 0:
                    return at, kind
            break
