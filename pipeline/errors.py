"""Mistakes of the person who declares an app, in words that say where and what to do."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from types import FrameType


class PeltonError(ValueError):
    """Something the user can mend; the message is one sentence, shown without a stack trace."""


class DeclarationError(PeltonError):
    """A mistake in an app file; the message begins with file and line."""

    def __init__(self, problem: str, place: str | None = None) -> None:
        place = place or caller_place()
        super().__init__(f"{place}: {problem}" if place else problem)


def caller_place() -> str:
    """Return file:line of the nearest caller outside this package, "" if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == "pipeline":
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return advice on a name that does not exist: the nearest one that does, or all of them.

    >>> nearest("amont", ["amount", "card"])
    "did you mean 'amount'?"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are {', '.join(names)}" if names else "there are none"
