"""What long work tells whoever shows its progress."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """How far a stage is.

    Attributes:
        name: what is being done, in a few words.
        done: how much of it, of `total`, in a unit of its own; equal at its end.
        total: how much there is, above zero.
        note: what can be said so far, for example a loss; may be empty.
    """

    name: str
    done: float
    total: float
    note: str = ""


Progress = Callable[[Stage], None]


def silent(stage: Stage) -> None:
    """Show nothing."""
