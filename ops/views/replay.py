"""The summary of a replay in words, and what its options mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ops.replaying import ReplaySummary
    from pipeline.inputs import Ledger


class SpeedError(ValueError):
    """A speed that is no number of times."""


def read_speed(text: str) -> float | None:
    """Read "10x" as 10.0 and "max" as None.

    Raises:
        SpeedError: it is neither, or not above 0.

    >>> read_speed("0.5x"), read_speed("max")
    (0.5, None)
    """
    if text == "max":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x?", text)
    if match is None or float(match.group(1)) <= 0:
        raise SpeedError(f"speed is {text!r}; write how many times the events' own clock, such as 10x, or max")
    return float(match.group(1))


def ledger_line(ledger: Ledger) -> str:
    """Say what became of the records of an input.

    >>> from pipeline.inputs import Ledger
    >>> ledger_line(Ledger(taken=7, applied=5, late=1, duplicate=1))
    '7 in = 5 applied + 1 late + 0 future + 1 duplicate + 0 invalid'
    """
    counts = asdict(ledger)
    taken = counts.pop("taken")
    rest = " + ".join(f"{count:,} {name}" for name, count in counts.items())
    return f"{taken:,} in = {rest}" + ("" if ledger.is_closed else "  (DOES NOT ADD UP)")


def summary(done: ReplaySummary, output: str | None, dead_to: Path | None = None) -> Iterator[str]:
    """Yield the lines that end a replay."""
    rate = (done.events + done.before) / done.seconds if done.seconds > 0 else 0.0
    yield f"{done.events:,} events in {done.seconds:.2f} s, {rate:,.0f} events/s"
    if done.before:
        yield f"{done.before:,} earlier ones were seen by windows only"
    for name, ledger in done.ledgers.items():
        yield f"{name}: {ledger_line(ledger)}"
    if done.decisions:
        yield "decisions: " + ", ".join(f"{count:,} {name}" for name, count in done.decisions.items())
    if done.dead:
        where = f"they are in {dead_to}" if dead_to else "keep them with --dead FILE"
        yield f"dead letters: {done.dead:,} (invalid, future or late); {where}"
    if done.where_time_goes:
        total = sum(done.where_time_goes.values()) or 1.0
        parts = (f"{name} {100 * seconds / total:.0f} %" for name, seconds in done.where_time_goes.items())
        yield "time: " + ", ".join(parts)
    if output:
        yield f"written to {output}"
