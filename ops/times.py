"""Times as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime


class TimeError(ValueError):
    """A time that cannot be read; the message shows how to write it."""


def read_time(text: str | None) -> int | None:
    """Read a date, a date with a time, or milliseconds since the epoch; UTC without a zone. None stays None.

    Raises:
        TimeError: it is none of them.

    >>> read_time("2026-01-05"), read_time("2026-01-05T12:00:00+01:00"), read_time("1767571200000")
    (1767571200000, 1767610800000, 1767571200000)
    """
    if text is None:
        return None
    if re.fullmatch(r"\d{10,}", text):
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise TimeError(f"{text!r} is no time; write 2026-01-31, 2026-01-31T12:00:00Z or milliseconds") from None
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
