"""Columns as lines of CSV: numbers and text, a batch of rows in one pass."""

import numpy as np

from kernels.compiled import njit
from kernels.number_text import put_float, put_integer, put_text
from kernels.parts import NO_RUNTIME
from kernels.words import address_of, store_word

FLOAT, INTEGER, BARE, QUOTED = range(4)  # kinds of columns; BARE and QUOTED are text

_COMMA, _BREAK, _QUOTE = (ord(sign) for sign in ',\n"')
U = np.uint64


@njit(
    "int64(int8[::1], int64[::1], int64[:,::1], int64[:,::1], int64[::1], int64, int64, uint64[:,::1], uint64[::1], uint8[::1])",  # noqa: E501
    **NO_RUNTIME,
)
def write_rows(kinds, places, numbers, texts, addresses, first, end, powers, tens, out):
    """Write some rows as lines and return how many bytes they take.

    Args:
        kinds: (columns,) FLOAT, INTEGER, BARE or QUOTED.
        places: (columns,) which row of `numbers`, or of `texts` and `addresses`, is the column's.
        numbers: (number columns, rows) bits of float64, or integers.
        texts: (2 * text columns, rows) where each value begins and, below it, ends; before its beginning if null.
        addresses: (text columns,) of the bytes that `texts` counts from.
        first, end: rows to write.
        powers: `kernels.shortest.powers_of_ten()`.
        tens: (20,) 10**i.
        out: (bytes,) room for all numbers with NUMBER_BYTES each, and for all text and 3 bytes for each value.
    """
    begin = address_of(out)
    to = begin
    for row in range(first, end):
        for column in range(kinds.size):
            if column > 0:
                store_word(to, U(_COMMA))
                to += 1
            kind, place = kinds[column], places[column]
            if kind == FLOAT:
                to = put_float(to, U(numbers[place, row]), powers, tens)
            elif kind == INTEGER:
                to = put_integer(to, numbers[place, row], tens)
            else:
                start, stop = texts[2 * place, row], texts[2 * place + 1, row]
                if stop >= start:
                    if kind == QUOTED:
                        store_word(to, U(_QUOTE))
                        to += 1
                    to = put_text(to, addresses[place] + start, stop - start)
                    if kind == QUOTED:
                        store_word(to, U(_QUOTE))
                        to += 1
        store_word(to, U(_BREAK))
        to += 1
    return to - begin
