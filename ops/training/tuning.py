"""What a search may change about a training, and within which limits.

No network becomes larger than the usual one of its kind: a bundle that fits with that fits with all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ops.training.recipes import Recipe

Value = int | float
LEARNING_RATE_TIMES = 4.0  # up and down from the usual one
WEIGHT_DECAY = (5e-3, 0.5)
DROPOUT_MAX = 0.3


@dataclass(frozen=True)
class Choice:
    """What may be tried of one setting.

    Attributes:
        usual: what is taken without a search.
        low: the smallest, where there is a range.
        high: the largest.
        log: whether to try as many values between 0.01 and 0.1 as between 0.1 and 1.
        among: the values, where there are only some.
    """

    usual: Value
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    among: tuple[int, ...] = ()

    def ask(self, trial: Any, name: str) -> Value:
        """Let an Optuna trial choose."""
        if self.among:
            return int(trial.suggest_categorical(name, list(self.among)))
        return float(trial.suggest_float(name, self.low, self.high, log=self.log))


def common(recipe: Recipe) -> dict[str, Choice]:
    """Return what may be tried of any network's recipe."""
    sizes, rate = recipe.sizes, recipe.learning_rate
    widths = [parts * sizes.width // 4 for parts in (2, 3, 4)]
    experts = [max(sizes.chosen, sizes.experts // 2), sizes.experts]
    return {
        "learning_rate": Choice(rate, rate / LEARNING_RATE_TIMES, rate * LEARNING_RATE_TIMES, log=True),
        "weight_decay": Choice(recipe.weight_decay, *WEIGHT_DECAY, log=True),
        "dropout": Choice(sizes.dropout, 0.0, DROPOUT_MAX),
        "width": Choice(sizes.width, among=tuple(each for each in widths if each % sizes.heads == 0)),
        "experts": Choice(sizes.experts, among=tuple(dict.fromkeys(experts))),
    }


def with_common(recipe: Recipe, values: Mapping[str, Value]) -> Recipe:
    """Return a recipe with those of some values that any network has; what is not among them stays."""
    sizes = {name: values[name] for name in ("dropout", "width", "experts") if name in values}
    rates = {name: values[name] for name in ("learning_rate", "weight_decay") if name in values}
    return replace(recipe, sizes=replace(recipe.sizes, **sizes), **rates)  # type: ignore[arg-type]


def in_words(values: Mapping[str, Value]) -> str:
    """Say what was chosen.

    >>> in_words({"learning_rate": 0.0012345, "width": 96})
    'learning_rate 0.00123, width 96'
    """
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
