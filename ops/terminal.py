"""What people see: progress, tables and notes; lively in a terminal, plain lines in a pipe.

Answers go to standard output; progress and notes to standard error, so that a pipe gets the answer alone.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import typer

from ops.progress import Stage

Step = Callable[[float, float, str], None]  # done, total, a note behind the bar
PLAIN_EVERY_S = 10.0  # a line of progress, where there is no terminal


def say(text: str = "") -> None:
    """Print a line of the answer."""
    typer.echo(text)


def note(text: str) -> None:
    """Print a line beside the answer."""
    typer.echo(text, err=True)


def counted(count: int, what: str) -> str:
    """Return a count with its noun.

    >>> counted(1, "record"), counted(2000, "record")
    ('1 record', '2,000 records')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def heading(text: str) -> str:
    """Return a text that is bold in a terminal; a pipe gets it as it is."""
    return typer.style(text, bold=True) if sys.stdout.isatty() else text


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in aligned columns below their headers; columns of numbers to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *texts, strict=True)]
    right = [bool(rows) and all(isinstance(row[n], int | float) for row in rows) for n in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(cells, widths, right, strict=True)
        ]
        return "  ".join(padded).rstrip()

    say(heading(line(headers)))
    for row in texts:
        say(line(row))


def facts(pairs: Sequence[tuple[str, object]]) -> None:
    """Print names and values below each other."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        say(f"{name.ljust(width)}  {value}")


@contextmanager
def progress(what: str, unit: str = "bytes") -> Iterator[Step]:
    """Show how far something is: a bar in a terminal, else a line now and then.

    Call the step with what is done, the total (0: not known) and a note.
    """
    if not sys.stderr.isatty():
        yield _plain(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn(what), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(compact=True), console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        row = bar.add_task(what, total=None, note="")
        yield lambda done, total, text: bar.update(row, completed=done, total=total or None, note=text)


def _plain(what: str) -> Step:
    printed_s = time.monotonic()

    def step(done: float, total: float, text: str) -> None:
        nonlocal printed_s
        now_s = time.monotonic()
        if now_s - printed_s < PLAIN_EVERY_S:
            return
        printed_s = now_s
        share = f" {100 * done / total:.0f} %" if total else ""
        note(f"{what}:{share}{', ' if share and text else ' '}{text}".rstrip())

    return step


@contextmanager
def stages() -> Iterator[Callable[[Stage], None]]:
    """Show work of several stages: a bar for each, or in a pipe a line at the end of each."""
    if not sys.stderr.isatty():
        yield from _plain_stages()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    bars: dict[str, TaskID] = {}
    shown = Progress(
        TextColumn("{task.description:<12}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(), TextColumn("{task.fields[note]}"), console=Console(stderr=True),
    )  # fmt: skip

    def step(stage: Stage) -> None:
        if stage.name not in bars:
            bars[stage.name] = shown.add_task(stage.name, total=stage.total, note="")
        shown.update(bars[stage.name], completed=stage.done, total=stage.total, note=stage.note)

    with shown:
        yield step


def _plain_stages() -> Iterator[Callable[[Stage], None]]:
    last: Stage | None = None

    def step(stage: Stage) -> None:
        nonlocal last
        if last is not None and last.name != stage.name:
            note(f"{last.name}: {last.note or 'done'}")
        known = last.note if last is not None and last.name == stage.name else ""
        last = replace(stage, note=stage.note or known)

    yield step
    if last is not None:
        note(f"{last.name}: {last.note or 'done'}")


def ready_kernels() -> None:
    """Compile what this machine has not compiled yet, once, and say so: it takes up to a minute."""
    from kernels.compiled import compile_all, missing

    gc.freeze()
    gc.enable()
    if not missing():
        return
    if not sys.stderr.isatty():
        note("compiling kernels, once per machine: about a minute")
        compile_all()
        return
    with progress("compiling kernels, once per machine", "kernels") as step:
        compile_all(lambda _, number, count: step(number - 1, count, f"{number} of {count}"))
