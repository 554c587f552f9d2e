"""Shows a running app until it ends: a live view in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import zip_longest
from types import FrameType
from typing import TYPE_CHECKING

from ops.views import live_words
from ops.views.live_app import Pictures

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

FRAME_S = 0.2
_QUIET = logging.NullHandler()
PLAIN_FRAMES = 10  # frames between two plain lines, for each task


class Show(AbstractContextManager["Show"]):
    """A thread that asks for pictures, one per task, five times a second and shows them.

    Args:
        pictures: what to show.
        title: of the view.
        plain: print lines although there is a terminal; without a terminal they are printed anyway.
        tick: called with all pictures, for whoever decides when it ends.
    """

    def __init__(
        self,
        pictures: Callable[[], Pictures],
        title: str,
        plain: bool = False,
        tick: Callable[[Pictures], None] | None = None,
    ) -> None:
        self._pictures, self._title, self._tick = pictures, title, tick
        self._live = None if plain else _live()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="view", daemon=True)

    def __enter__(self) -> Show:
        """Begin to show."""
        if self._live is not None:
            logging.getLogger("pelton").addHandler(_QUIET)  # a line in the middle of the view would tear it
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Give the terminal back."""
        self._ended.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()
            logging.getLogger("pelton").removeHandler(_QUIET)

    def _run(self) -> None:
        frame, told = 0, list[str | None]()
        while not self._ended.wait(FRAME_S):
            pictures = self._pictures()
            frame += 1
            if self._live is not None:
                self._draw(pictures)
            elif frame % (PLAIN_FRAMES * len(pictures)) == 0:
                told = self._print(pictures, told)
            if self._tick is not None:
                self._tick(pictures)

    def _draw(self, pictures: Pictures) -> None:
        from ops.views.live_board import draw_board
        from ops.views.live_view import draw

        assert self._live is not None
        console = self._live.console
        width, height = console.size
        if len(pictures) > 1 or pictures[0].told is not None:
            drawn = draw_board(pictures, width, height, self._title, has_colours(console))
        else:
            drawn = draw(pictures[0], width, height, self._title)
        self._live.update(drawn, refresh=True)

    def _print(self, pictures: Pictures, told: list[str | None]) -> list[str | None]:
        """Print a line per task, and the newest example of each if it is another one than last time."""
        examples = [live_words.decision_line(each) for each in pictures]
        for line, example, before in zip_longest(live_words.lines(pictures), examples, told):
            print(line if example is None or example == before else f"{line}\n{example}", flush=True)
        return examples


def _live() -> Live | None:
    """Return a view of the whole terminal; None where there is none, or one that cannot show it."""
    if not sys.stdout.isatty():
        return None
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if console.is_dumb_terminal or "utf" not in console.encoding.lower():
        return None
    return Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False, redirect_stdout=False)


def has_colours(console: Console) -> bool:
    """Whether a terminal has colours, and its user wants them (NO_COLOR)."""
    return console.color_system is not None and not console.no_color


@contextmanager
def stopping_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block in its own time; a second Ctrl-C interrupts at once."""

    def asked(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
