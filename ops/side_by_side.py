"""Loops that have nothing to do with each other, each in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence


def side_by_side(loops: Sequence[Callable[[], None]], stop: Callable[[], None], name: str = "loop") -> None:
    """Run loops until all have returned: the first here, each other in a thread.

    Args:
        loops: what to run; they look by themselves whether they shall stop.
        stop: lets all of them return soon; called when one raised.
        name: of the threads.

    Raises:
        BaseException: what the first that failed raised, when all have returned.
    """
    errors: list[BaseException] = []

    def run(loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:  # goes on in the caller's thread
            errors.append(error)
            stop()

    threads = [threading.Thread(target=run, args=(loop,), name=f"{name} {number}", daemon=True)
               for number, loop in enumerate(loops[1:], start=1)]  # fmt: skip
    for thread in threads:
        thread.start()
    for loop in loops[:1]:
        run(loop)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
