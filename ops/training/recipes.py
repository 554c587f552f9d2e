"""How long and how large a network is trained: for each kind of task alone, and for several together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from models.moe.settings import MoESettings

if TYPE_CHECKING:
    from models.train.task_data import TaskData


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: passes over the data, at most.
        sizes: of the network; `experts` is how many a task may visit.
        patience: epochs without anything better before it ends.
        learning_rate: the highest.
        average_decay: how slowly the averaged weights follow.
        weight_decay: of matrices.
        private: experts of each task's own, where there are several; they come on top of the common ones.
    """

    epochs: int
    sizes: MoESettings
    patience: int
    learning_rate: float = 2e-3
    average_decay: float = 0.99
    weight_decay: float = 0.05
    private: int = 0

    def share_out(self, tasks: Sequence[str]) -> dict[str, Sequence[int] | None]:
        """Tell which experts each task may visit."""
        from models.moe.trunk import share_out

        return dict(share_out(tasks, self.sizes.experts, self.private))


def together(recipes: Mapping[str, Recipe]) -> tuple[Recipe, dict[str, int]]:
    """Return one recipe for several tasks, and how often each goes through its data in an epoch.

    A task sees its data about as often as it would alone: the one with the fewest epochs sets how many there are. It
    visits as many experts as alone, or as the task that visits the fewest; one in eight is its own. Of each other size
    the network has the largest that is asked for. Tasks of different kinds are never done at once, so none of them
    ends the training early.
    """
    several = list(recipes.values())
    epochs = min(each.epochs for each in several)
    passes = {task: round(each.epochs / epochs) for task, each in recipes.items()}
    if len(several) == 1:
        return several[0], passes
    names = [each.name for each in fields(MoESettings)]
    sizes = MoESettings(**{name: max(getattr(each.sizes, name) for each in several) for name in names})
    visited = min(each.sizes.experts for each in several)
    private = max(1, visited // 8)
    alike = all(each == several[0] for each in several)
    return replace(
        several[0],
        epochs=epochs,
        sizes=replace(sizes, experts=visited + private * (len(several) - 1)),
        patience=several[0].patience if alike else epochs,
        learning_rate=min(each.learning_rate for each in several),
        average_decay=min(each.average_decay for each in several),
        private=private,
    ), passes


def repeated(data: TaskData, passes: int) -> TaskData:
    """Return data that is gone through several times in an epoch."""
    if passes == 1:
        return data
    from models.train.task_data import Repeated

    return Repeated(data, passes)
