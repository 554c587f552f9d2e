"""How much to take at once, so that it lasts about as long as it may. Time is an argument."""

from __future__ import annotations


class Portion:
    """A power of two of rows that follows what the last ones took: doubled if there is time for it, else cut.

    Args:
        seconds_max: how long a portion may last.
        rows_max: the most, a power of two.
        rows: to begin with, a power of two.

    Attributes:
        rows: to take next.

    >>> portion = Portion(seconds_max=0.1, rows_max=1024, rows=64)
    >>> portion.took(64, 0.16)
    >>> portion.rows
    32
    """

    def __init__(self, seconds_max: float, rows_max: int, rows: int) -> None:
        if not (seconds_max > 0 and rows_max >= rows >= 1):
            raise ValueError(f"a portion of {rows} to {rows_max} rows in {seconds_max} s; give all of them above zero")
        self._seconds_max, self._rows_max = seconds_max, rows_max
        self.rows = rows

    def took(self, rows: int, seconds: float) -> None:
        """Learn how long some rows took. Fewer than a portion tell only that it is too large, never that it may grow.

        What took too long is cut to what would have had the time, if all rows are alike.
        """
        if seconds > self._seconds_max:
            fitting = max(int(rows * self._seconds_max / seconds), 1)
            self.rows = min(self.rows, 1 << (fitting.bit_length() - 1))
        elif rows >= self.rows and 2 * seconds <= self._seconds_max:
            self.rows = min(2 * self.rows, self._rows_max)
