"""Which feature columns make which token. Plain Python: what a token sees can be read from the plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from models.features import FeatureSpec
from models.moe.settings import MoESettings


@dataclass(frozen=True)
class Channel:
    """One value of a sequence, over the earlier events of a key.

    Attributes:
        name: the group that the columns share.
        kind: "number" or "category".
        columns: (steps,) column of the matrix for step 1, 2, ...; None where the app declared no such step.
    """

    name: str
    kind: str
    columns: tuple[int | None, ...]


@dataclass(frozen=True)
class TokenPlan:
    """How the columns of a feature matrix become tokens.

    Attributes:
        groups: per token of the event itself, the columns that it sums up.
        channels: the sequence's channels, all padded to the same number of steps.
        steps_per_token: neighbouring steps that share a sequence token.
        sequence_tokens: tokens that tell of earlier events, 0 if there is no sequence.
    """

    groups: tuple[tuple[int, ...], ...]
    channels: tuple[Channel, ...]
    steps_per_token: int
    sequence_tokens: int

    @property
    def tokens(self) -> int:
        """Tokens of one event: the summary token, the groups, the sequence."""
        return 1 + len(self.groups) + self.sequence_tokens


def plan_tokens(specs: Sequence[FeatureSpec], settings: MoESettings) -> TokenPlan:
    """Group the columns into at most `settings.tokens_max` tokens.

    One token per group in order of first appearance. While there are too many, the two smallest neighbours are merged,
    so that what an app declares side by side stays together. A long sequence puts neighbouring steps into one token.

    Raises:
        ValueError: no columns, an unknown kind, a negative step, or a step declared twice.
    """
    _check(specs)
    channels = _channels(specs)
    steps = len(channels[0].columns) if channels else 0
    by_group: dict[str, list[int]] = {}
    for column, spec in enumerate(specs):
        if spec.step == 0:
            by_group.setdefault(spec.group, []).append(column)
    groups = list(by_group.values())
    if not channels:
        allowed = 0
    elif settings.sequence_tokens_max == 0:
        raise ValueError(
            f"column {channels[0].name!r} describes earlier events, and sequence_tokens_max is 0; "
            "allow at least one sequence token or leave the column out"
        )
    else:  # short of room, a sequence gives way to groups, but keeps one token
        room = settings.tokens_max - 1 - len(groups)
        allowed = min(settings.sequence_tokens_max, max(room, settings.sequence_tokens_max // 2, 1))
    steps_per_token = -(-steps // allowed) if allowed else 1
    sequence_tokens = -(-steps // steps_per_token)
    groups = _merge(groups, settings.tokens_max - 1 - sequence_tokens)
    return TokenPlan(tuple(tuple(group) for group in groups), channels, steps_per_token, sequence_tokens)


def _merge(groups: list[list[int]], at_most: int) -> list[list[int]]:
    groups = list(groups)
    while len(groups) > at_most:
        sizes = [len(left) + len(right) for left, right in pairwise(groups)]
        first = sizes.index(min(sizes))
        groups[first : first + 2] = [groups[first] + groups[first + 1]]
    return groups


def _channels(specs: Sequence[FeatureSpec]) -> tuple[Channel, ...]:
    by_channel: dict[tuple[str, str], dict[int, int]] = {}
    for column, spec in enumerate(specs):
        if spec.step > 0:
            steps = by_channel.setdefault((spec.group, spec.kind), {})
            if spec.step in steps:
                raise ValueError(
                    f"columns {specs[steps[spec.step]].name!r} and {spec.name!r} are both step {spec.step} of "
                    f"sequence {spec.group!r}; give each sequence a group of its own"
                )
            steps[spec.step] = column
    longest = max((step for steps in by_channel.values() for step in steps), default=0)
    return tuple(
        Channel(name, kind, tuple(steps.get(step) for step in range(1, longest + 1)))
        for (name, kind), steps in by_channel.items()
    )


def _check(specs: Sequence[FeatureSpec]) -> None:
    if not specs:
        raise ValueError("there are no feature columns; give the task at least one feature")
    for column, spec in enumerate(specs):
        if spec.kind not in ("number", "category"):
            raise ValueError(f"column {column} ({spec.name!r}) is a {spec.kind!r}; use number or category")
        if spec.step < 0:
            raise ValueError(f"column {column} ({spec.name!r}) has step {spec.step}; the event itself is step 0")
