"""Expressions: Python's syntax, columns as values, null that stays null."""

import numpy as np
import pytest

from pipeline.errors import DeclarationError
from pipeline.expressions import parse

NAN = float("nan")
COLUMNS = {"x": np.array([1.0, -4.0, NAN]), "y": np.array([2.0, 0.0, 5.0]), "channel": np.array([7.0, 8.0, NAN])}

VALUES = {
    "x + y * 2": [5, -4, NAN],
    "x / y": [0.5, NAN, NAN],
    "x % y": [1, NAN, NAN],
    "x > 0": [1, 0, 0],
    "not x > 0": [0, 1, 1],
    "0 < x < 3 and y == 2": [1, 0, 0],
    "x > 0 or y > 3": [1, 0, 1],
    "if_null(x, 9)": [1, -4, 9],
    "is_null(x)": [0, 0, 1],
    "y if x > 0 else -1": [2, -1, -1],
    "channel == 'web'": [1, 0, 0],
    "channel != 'web'": [0, 1, 0],
    "log(x)": [0, NAN, NAN],
    "sqrt(abs(x))": [1, 2, NAN],
    "min(x, y)": [1, -4, NAN],
    "x ** 0.5": [1, NAN, NAN],
    "3": [3, 3, 3],
    "1e308 * 10": [NAN, NAN, NAN],
}


@pytest.mark.parametrize("text", VALUES)
def test_values(text: str) -> None:
    result = parse(text).evaluate(COLUMNS, {"web": 7.0}.__getitem__, 3)
    np.testing.assert_array_equal(result, VALUES[text])


def test_hours_and_weekdays_are_utc() -> None:
    # 1970-01-01 00:00 was a Thursday; 2026-01-31 23:59:59.999 a Saturday
    columns = {"t": np.array([0.0, 1769903999999.0])}
    assert parse("hour(t)").evaluate(columns, float, 2).tolist() == [0, 23]
    assert parse("weekday(t)").evaluate(columns, float, 2).tolist() == [3, 5]


REFUSED = {
    "x.__class__": r"contains 'x.__class__', which expressions do not have",
    "[x for x in y]": r"which expressions do not have",
    "lambda: 1": r"which expressions do not have",
    "__import__('os')": r"calls __import__; there are abs",
    "abs(x, y)": r"gives abs 2 values; it takes 1",
    "x if": r"cannot be read",
    "1j": r"has 1j; numbers, True, False and texts can be used",
}


@pytest.mark.parametrize("text", REFUSED)
def test_nothing_else_can_be_written(text: str) -> None:
    with pytest.raises(DeclarationError, match=REFUSED[text]):
        parse(text)
