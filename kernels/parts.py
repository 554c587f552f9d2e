"""Pieces of kernels: compiled into the kernels that call them, never loaded on their own.

None of them imports numba before a kernel is compiled, so a process that only runs kernels never does.
"""

from collections.abc import Callable
from typing import Any

__all__ = ["NO_RUNTIME", "Intrinsic", "Piece", "hot", "part"]

# Kernels of one event at a time touch dozens of arrays per event; counting references to them, atomically, would take
# four fifths of the time. Without numba's runtime there is nothing to count: arrays come in as arguments, none is made.
NO_RUNTIME = {"_nrt": False}


class Piece:
    """A function that kernels call. From Python, which only tests do, it compiles itself for what it is given."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.py_func = self.__wrapped__ = function
        self.__name__, self.__module__, self.__doc__ = function.__name__, function.__module__, function.__doc__
        self._options = options
        self._dispatcher: Any = None

    @property
    def dispatcher(self) -> Any:
        """Numba's form of the function."""
        if self._dispatcher is None:
            from kernels.compiling import make_dispatcher

            self._dispatcher = make_dispatcher(self.py_func, self._options)
        return self._dispatcher

    @property
    def _numba_type_(self) -> Any:
        return self.dispatcher._numba_type_

    def __call__(self, *args: Any) -> Any:
        """Run it, compiled."""
        return self.dispatcher(*args)


class Intrinsic:
    """Something that numba does not offer by itself, of that name in `kernels.intrinsics`."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def _numba_type_(self) -> Any:
        from kernels.compiling import type_of_global

        return type_of_global("kernels.intrinsics", self.name)

    def __call__(self, *args: Any) -> Any:
        """Nothing: it exists in compiled code only."""
        raise NotImplementedError(f"{self.name} exists in compiled code only")


def part(function: Callable[..., Any]) -> Piece:
    """Make a function a piece."""
    return Piece(function, NO_RUNTIME)


def hot(function: Callable[..., Any]) -> Piece:
    """Make a function a piece that becomes part of its caller.

    What runs for every event must: a call hands over seven words for each array, a hundred in all, and a dozen of such
    calls an event took as long as the work itself.
    """
    return Piece(function, {"forceinline": True, **NO_RUNTIME})
