"""What the user declares about decisions: tasks, rules, the app."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from models.threshold import Dynamic, Fixed
from pipeline.declared import Declared
from pipeline.defects import DefectTask
from pipeline.errors import DeclarationError, caller_place, nearest
from pipeline.expressions import Expression, parse
from pipeline.stream import Stream, checked_name
from pipeline.support import SupportTask
from pipeline.windows import Column, Derived, WindowFeature

DECISIONS = ("allow", "review", "block")
Feature = Column | Derived | WindowFeature


class Rule:
    """A condition over fields and features that decides by itself, and is named in the decision.

    Rules are tried in order; the first that holds decides. `Rule("impossible speed", "places_1h > 3", "review")`.
    """

    def __init__(self, name: str, when: str, then: str) -> None:
        if then not in DECISIONS:
            raise DeclarationError(f"rule {name!r} decides {then!r}; it is one of {', '.join(DECISIONS)}")
        self.name, self.then, self.place = name, then, caller_place()
        self.when: Expression = parse(when, f"rule {name!r}")


@dataclass(frozen=True, eq=False)
class Task(Declared):
    """One decision about each event of a stream.

    Attributes:
        name: of the task.
        on: the stream whose events are decided.
        features: name -> field, window aggregate, or expression over other features (a text).
        rules: tried first, in order.
        label: the field of a stream of labels that says how it turned out.
        threshold: `Fixed(...)` or `Dynamic(...)`.
        model: "moe", or None to score by rules and learner alone.
        learner: "ftrl", or None.
        entity: the field that reports count by, for example the card.
        label_wait: how long after its event a label is still joined to it.
        precedence: "high", "normal" or "low": whose turn it is where tasks of an app want the processor at once.
        budget_ms: how old an event may be when it is decided, in milliseconds; when that is predicted to be missed, the
            small network of the bundle decides, then rules alone. None never falls back.
    """

    name: str
    on: Stream
    features: Mapping[str, Feature | str]
    rules: Sequence[Rule] = ()
    label: Column | None = None
    threshold: Fixed | Dynamic = field(default_factory=Fixed)
    model: str | None = "moe"
    learner: str | None = "ftrl"
    entity: str | None = None
    label_wait: str = "14d"
    precedence: str = "high"
    budget_ms: float | None = None
    place: str = field(default_factory=caller_place)

    label_types: ClassVar[tuple[str, ...]] = ("bool", "int")

    def __post_init__(self) -> None:
        """Check everything that does not need the other tasks."""
        self.check_common()
        if self.model not in ("moe", None) or self.learner not in ("ftrl", None):
            raise DeclarationError(f"task {self.name!r}: model is 'moe' or None, learner is 'ftrl' or None", self.place)
        if self.label is not None and self.label.stream is self.on:
            what = f"use {self.on.name}.label({self.label.name!r}, known_after='7d')"
            raise DeclarationError(f"task {self.name!r}: its label is a field of the event itself; {what}", self.place)
        if not self.features:
            raise DeclarationError(f"task {self.name!r} has no features", self.place)
        for name, feature in self.features.items():
            self._check_feature(name, feature)

    def _check_feature(self, name: str, feature: Feature | str) -> None:
        if not name.isidentifier():
            raise DeclarationError(f"feature {name!r}: use letters, digits and _, beginning with a letter", self.place)
        if not isinstance(feature, Column | Derived | WindowFeature | str):
            problem = f"feature {name!r} is {feature!r}; give a field, a window aggregate or an expression"
            raise DeclarationError(problem, self.place)
        if isinstance(feature, Column) and feature.stream is not self.on:
            problem = (
                f"feature {name!r} is a field of {feature.stream.name!r}; task {self.name!r} is on {self.on.name!r}"
            )
            raise DeclarationError(problem, self.place)
        if isinstance(feature, Column) and feature.field.content is not None:
            problem = f"feature {name!r} is {feature!r}, which is for a network that reads it; leave it out"
            raise DeclarationError(problem, self.place)
        if name in self.on.schema.names and not (isinstance(feature, Column) and feature.name == name):
            raise DeclarationError(f"feature {name!r} has the name of a field; choose another", self.place)


AnyTask = Task | SupportTask | DefectTask  # of whatever kind; what they share, plans and workers use


@dataclass(frozen=True)
class Agent:
    """An async function that is called with decisions after they were committed; see `App.agent`.

    Attributes:
        batches: whether it takes a list of decisions instead of one.
    """

    name: str
    function: Callable[[Any], Awaitable[object]]
    batches: bool


class App:
    """A set of tasks that run together.

    Args:
        name: of the app; its topics and manifests are named after it.
        tasks: at least one.
        events_per_key: how many events a key keeps at most, the newest by time. It bounds the memory of hot keys
            and is part of what their features are; the state's statistics say how often it happened.

    Raises:
        DeclarationError: two tasks or streams share a name, or a feature refers to what is not there.
    """

    def __init__(self, name: str, tasks: Sequence[AnyTask], *, events_per_key: int = 16_384) -> None:
        self.name = checked_name(name, "app")
        self.tasks = tuple(tasks)
        self.agents: list[Agent] = []
        self.place = caller_place()
        names = [task.name for task in tasks]
        if not tasks or len(set(names)) != len(names):
            problem = "no task" if not tasks else f"two tasks named {max(names, key=names.count)!r}"
            raise DeclarationError(f"app {name!r} has {problem}", self.place)
        self.streams: dict[str, Stream] = {}
        for stream in (each for task in tasks for each in _streams_of(task)):
            if self.streams.setdefault(stream.name, stream) is not stream:
                raise DeclarationError(f"two streams are named {stream.name!r}; share one", stream.place)
        from pipeline.plan import plan_stream  # here, because plans are made of what this file declares

        on = dict.fromkeys(task.on for task in tasks)
        self.plans = {
            stream.name: plan_stream(stream, [t for t in tasks if t.on is stream], events_per_key) for stream in on
        }

    def agent(self, function: Callable[[Any], Awaitable[object]] | None = None, *, batches: bool = False) -> Any:
        """Let an async function act on decisions: `@app.agent` above it, or `@app.agent(batches=True)`.

        It runs after the commit, at least once for each decision: a dictionary with the columns of the decisions topic,
        or with `batches` a list of them, in the order of their partition. `event_id` and `task` tell whether it was
        done before. What it raises is told, and the same is tried again until it works.

        Raises:
            DeclarationError: it is no async function, or there is one of its name.
        """
        if function is None:
            return lambda declared: self.agent(declared, batches=batches)
        name = getattr(function, "__name__", repr(function))
        if not inspect.iscoroutinefunction(function):
            raise DeclarationError(f"agent {name!r} is no async function; declare it with async def")
        if name in [each.name for each in self.agents]:
            raise DeclarationError(f"two agents are named {name!r}; choose another name")
        self.agents.append(Agent(name, function, batches))
        return function

    def task(self, name: str | None = None) -> AnyTask:
        """Return a task by name; the only one if no name is given.

        Raises:
            DeclarationError: there is none of that name, or several and no name.
        """
        if name is None and len(self.tasks) == 1:
            return self.tasks[0]
        found = [task for task in self.tasks if task.name == name]
        if not found:
            known = [task.name for task in self.tasks]
            asked = f"no task {name!r}" if name else "several tasks"
            raise DeclarationError(f"app {self.name!r} has {asked}; {nearest(name or '', known)}", self.place)
        return found[0]


def _streams_of(task: AnyTask) -> list[Stream]:
    found = [task.on]
    for feature in task.features.values():
        if isinstance(feature, WindowFeature):
            found += [feature.stream] + ([feature.facts] if feature.facts is not None else [])
    return found + ([task.label.stream] if task.label is not None else [])
