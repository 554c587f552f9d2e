"""Where the time of one piece of work goes."""

from __future__ import annotations

from collections.abc import Callable


class Laps:
    """Adds the time since the last call to what the call names.

    Args:
        timer_s: seconds of a clock that never goes back.

    Attributes:
        seconds: name -> seconds.
    """

    def __init__(self, timer_s: Callable[[], float]) -> None:
        self._timer_s = timer_s
        self._last_s = timer_s()
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str) -> None:
        """End a lap."""
        now_s = self._timer_s()
        self.seconds[name] = self.seconds.get(name, 0.0) + now_s - self._last_s
        self._last_s = now_s
