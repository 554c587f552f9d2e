"""Which stages have to do with each other, and how urgent their tasks are: families are worked on side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.declared import PRECEDENCES

if TYPE_CHECKING:
    from pipeline.app import App
    from pipeline.stages import Stage


@dataclass(frozen=True)
class Family:
    """Stages that share a topic, directly or by others: one thread of a partition steps them in turns.

    Attributes:
        groups: of the stages, in their order.
        level: of the most urgent task among them, 0 is the lowest.
    """

    groups: tuple[str, ...]
    level: int


def levels_of(app: App) -> dict[str, int]:
    """Return task -> how urgent it is, 0 is the least."""
    return {task.name: PRECEDENCES.index(task.precedence) for task in app.tasks}


def families_of(app: App, stages: Iterable[Stage]) -> list[Family]:
    """Return the families of an app's stages, the most urgent first."""
    found: list[tuple[set[str], list[Stage]]] = []  # topics, stages
    for stage in stages:
        topics = {each.topic for each in stage.inputs} | {each.topic for each in stage.outputs}
        related = [each for each in found if each[0] & topics]
        found = [each for each in found if not each[0] & topics]
        found.append((topics.union(*(each[0] for each in related)), [*(s for _, kin in related for s in kin), stage]))
    levels = levels_of(app)
    families = [Family(tuple(each.group for each in kin), _level(app, kin, levels)) for _, kin in found]
    return sorted(families, key=lambda family: -family.level)


def _level(app: App, stages: Sequence[Stage], levels: dict[str, int]) -> int:
    streams = {stage.plan.stream for stage in stages}
    return max((levels[task.name] for task in app.tasks if task.on in streams), default=0)
