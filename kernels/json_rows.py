"""Columns as JSON objects: numbers and text, a batch of rows in one pass."""

import numpy as np

from kernels.compiled import njit
from kernels.number_text import put_float, put_integer, put_text
from kernels.parts import NO_RUNTIME
from kernels.words import address_of, store_word

FLOAT, INTEGER, BARE, QUOTED = range(4)  # kinds of columns; BARE is JSON already, QUOTED is text to stand in quotes

_QUOTE = ord('"')
_NULL = int.from_bytes(b"null", "little")
_EXPONENT = np.uint64(0x7FF0000000000000)
U = np.uint64


@njit(
    "int64(int8[::1], int64[::1], int64[::1], Array(uint8, 1, 'C', readonly=True), int64[:,::1], int64[:,::1], "
    "int64[::1], uint64[:,::1], uint64[::1], int64[::1], uint8[::1])",
    **NO_RUNTIME,
)
def write_objects(kinds, places, bounds, words, numbers, texts, addresses, powers, tens, ends, out):
    """Write rows, one object after the other, and return how many bytes they take.

    Args:
        kinds: (columns,) FLOAT, INTEGER, BARE or QUOTED.
        places: (columns,) which row of `numbers`, or of `texts` and `addresses`, is the column's.
        bounds: (columns + 2,) where in `words` begins what stands before each column, and behind the last; and its end.
        words: (bytes,) those texts.
        numbers: (number columns, rows) bits of float64, or integers.
        texts: (2 * text columns, rows) where each value begins and, below it, ends; before its beginning if null.
        addresses: (text columns,) of the bytes that `texts` counts from.
        powers: `kernels.shortest.powers_of_ten()`.
        tens: (20,) 10**i.
        ends: (rows,) written: where each object ends.
        out: (bytes,) room for all words and text, for all numbers with NUMBER_BYTES each, and 6 bytes for each text.
    """
    begin, before = address_of(out), address_of(words)
    to = begin
    for row in range(ends.size):
        for column in range(kinds.size):
            to = put_text(to, before + bounds[column], bounds[column + 1] - bounds[column])
            kind, place = kinds[column], places[column]
            if kind == FLOAT:
                bits = U(numbers[place, row])
                if bits & _EXPONENT == _EXPONENT:
                    store_word(to, U(_NULL))
                    to += 4
                else:
                    to = put_float(to, bits, powers, tens)
            elif kind == INTEGER:
                to = put_integer(to, numbers[place, row], tens)
            else:
                start, stop = texts[2 * place, row], texts[2 * place + 1, row]
                if stop < start:
                    store_word(to, U(_NULL))
                    to += 4
                else:
                    if kind == QUOTED:
                        store_word(to, U(_QUOTE))
                        to += 1
                    to = put_text(to, addresses[place] + start, stop - start)
                    if kind == QUOTED:
                        store_word(to, U(_QUOTE))
                        to += 1
        to = put_text(to, before + bounds[kinds.size], bounds[kinds.size + 1] - bounds[kinds.size])
        ends[row] = to - begin
    return to - begin
