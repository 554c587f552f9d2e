"""Shows a running app until it ends: a live view in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from ops.views import live_words
from ops.views.live_figures import Picture

if TYPE_CHECKING:
    from rich.live import Live

FRAME_S = 0.2
PLAIN_FRAMES = 10  # frames between two plain lines


class Show(AbstractContextManager["Show"]):
    """A thread that asks for a picture five times a second and shows it.

    Args:
        picture: what to show.
        title: of the view.
        plain: print lines although there is a terminal; without a terminal they are printed anyway.
        tick: called with each picture, for whoever decides when it ends.
    """

    def __init__(
        self,
        picture: Callable[[], Picture],
        title: str,
        plain: bool = False,
        tick: Callable[[Picture], None] | None = None,
    ) -> None:
        self._picture, self._title, self._tick = picture, title, tick
        self._live = None if plain else _live()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="view", daemon=True)

    def __enter__(self) -> Show:
        """Begin to show."""
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Give the terminal back."""
        self._ended.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()

    def _run(self) -> None:
        frame, told = 0, ""
        while not self._ended.wait(FRAME_S):
            picture = self._picture()
            frame += 1
            if self._live is not None:
                self._draw(picture)
            elif frame % PLAIN_FRAMES == 0:
                told = self._print(picture, told)
            if self._tick is not None:
                self._tick(picture)

    def _draw(self, picture: Picture) -> None:
        from ops.views.live_view import draw

        assert self._live is not None
        size = self._live.console.size
        self._live.update(draw(picture, size.width, size.height, self._title), refresh=True)

    def _print(self, picture: Picture, told: str) -> str:
        """Print a line, and the newest alert if it is another one than last time."""
        alert = live_words.decision_line(picture)
        lines = [live_words.line(picture), *([alert] if alert and alert != told else [])]
        print("\n".join(lines), flush=True)
        return alert or ""


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
