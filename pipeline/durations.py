"""Spans of time as people write them."""

import re

from pipeline.errors import DeclarationError

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
SPAN_MS_MAX = 90 * _UNITS_MS["d"]


def duration_ms(text: str, what: str = "duration") -> int:
    """Read a duration such as "5s", "1h" or "7d" as milliseconds.

    Raises:
        DeclarationError: not a whole number and a unit.

    >>> duration_ms("90m")
    5400000
    """
    match = re.fullmatch(r"(\d+)\s*([a-z]+)", text) if isinstance(text, str) else None
    if not match or match.group(2) not in _UNITS_MS:
        raise DeclarationError(
            f"{what} is {text!r}; write a whole number and a unit, such as '5s', '30m', '1h' or '7d'"
        )
    return int(match.group(1)) * _UNITS_MS[match.group(2)]


def span_ms(text: str, what: str = "span") -> int:
    """Read the span of a window: above zero, at most 90 days."""
    span = duration_ms(text, what)
    if not 0 < span <= SPAN_MS_MAX:
        raise DeclarationError(f"{what} is {text!r}; a window spans from 1ms to 90d")
    return span


def in_words(duration: int) -> str:
    """Write milliseconds the short way: the inverse of `duration_ms`.

    >>> in_words(86_400_000)
    '1d'
    """
    for unit in ("d", "h", "m", "s"):
        if duration and duration % _UNITS_MS[unit] == 0:
            return f"{duration // _UNITS_MS[unit]}{unit}"
    return f"{duration}ms"
