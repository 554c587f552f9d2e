"""The live features of one key, from the newest snapshot and the log behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from connectors.columns import hash_column
from connectors.log import Log
from connectors.schema import Field
from connectors.secrets import Tokeniser
from kernels import window_state as ws
from ops.model_view import when
from ops.settings import Settings
from ops.terminal import counted
from pipeline.app import App
from pipeline.engine import Engine
from pipeline.errors import nearest
from pipeline.groups import Group
from pipeline.live import group_of
from pipeline.plan import GroupPlan, StreamPlan
from pipeline.recovery import recover
from pipeline.state_store import StateStore


class StateError(ValueError):
    """The state cannot be looked at as asked; the message says what to change."""


OF_AN_EVENT = ("changed", "seen", "zscore")  # compare an event with those before it: there is none here


@dataclass(frozen=True)
class KeyFeature:
    """A feature that a key has now.

    Attributes:
        name: of the feature.
        what: in words.
        value: None for null, and for what only an event has.
        is_category: whether the value is a text's hash.
    """

    name: str
    what: str
    value: float | None
    is_category: bool

    @property
    def shown(self) -> str:
        """The value for people."""
        if self.value is None:
            return "-"
        return f"#{int(self.value):08x}" if self.is_category else f"{self.value:.6g}"


@dataclass(frozen=True)
class KeyState:
    """What is known about one key.

    Attributes:
        stream, key: where to look, the field.
        as_of_ms: event time at which the features hold: the newest of the stream.
        commit: of the newest decisions that the state includes, `replayed` records of the log after its snapshot.
        waiting: records in the log that nothing has decided yet.
        events: of the key in its windows' memory; -1 if it has none.
        newest_ms: event time of the newest of them; None if there is none.
        in_a_window: whether one of its events is young enough for one of its windows.
        features: all of this key.
    """

    stream: str
    key: str
    as_of_ms: int
    commit: int
    replayed: int
    waiting: int
    events: int
    newest_ms: int | None
    in_a_window: bool
    features: tuple[KeyFeature, ...]

    @property
    def status(self) -> str:
        """`live`; `idle` if its events are too old for every window; `unknown` if there is none, or it was freed."""
        if self.events < 0:
            return "unknown"
        return "live" if self.in_a_window else "idle"

    def lines(self, now_ms: int) -> list[tuple[str, object]]:
        """Return what to print above the features; `now_ms` is the clock's."""
        status = {
            "live": f"live, {counted(self.events, 'event')} in memory",
            "idle": f"idle, {counted(self.events, 'event')} in memory, none in a window",
            "unknown": "unknown: no event of it, or none for longer than the longest window",
        }
        pairs: list[tuple[str, object]] = [("key", f"{self.stream} by {self.key}"), ("status", status[self.status])]
        if self.newest_ms is not None:
            pairs.append(("newest event", f"{when(self.newest_ms)} UTC, {age(self.as_of_ms - self.newest_ms)} before"))
        if self.commit:
            behind = f"{age(now_ms - self.as_of_ms)} ago" if now_ms >= self.as_of_ms else "ahead of this clock"
            pairs.append(("as of", f"{when(self.as_of_ms)} UTC, {behind}; commit {self.commit:,}"))
        else:
            pairs.append(("as of", "nothing: no event is decided yet"))
        return pairs


def age(span_ms: int) -> str:
    """Say a span in one unit, rounded.

    >>> age(90_000), age(36 * 3_600_000)
    ('2 minutes', '36 hours')
    """
    for name, unit_ms, most in (("seconds", 1_000, 90), ("minutes", 60_000, 90), ("hours", 3_600_000, 48)):
        if span_ms < most * unit_ms:
            return f"{span_ms / unit_ms:.0f} {name}"
    return f"{span_ms / 86_400_000:.0f} days"


def look_up(app: App, settings: Settings, log: Log, tokeniser: Tokeniser | None, stream: str, key: str) -> KeyState:
    """Return what is known about a key.

    Args:
        stream: a decided stream of the app.
        key: `card=4111...`, or the value alone if the stream is grouped by one field.

    Raises:
        StateError: there is no such stream or field, or the value does not fit it.
    """
    if stream not in app.plans:
        raise StateError(f"app {app.name!r} decides no stream {stream!r}; {nearest(stream, app.plans)}")
    plan = app.plans[stream]
    by, value = _field_and_value(plan, key)
    hashed = _hash(plan.stream.schema.field(by), value, tokeniser)
    name = group_of(app.name, stream)
    store = StateStore.of(settings.state, name, 0)
    found = recover(plan, log, name, 0, store, tokeniser)
    waiting = sum(log.end(each, 0) - at for each, at in found.positions.items())
    known = _look(found.engine, by, hashed)
    return KeyState(
        stream, by, found.engine.admissions[stream].high_ms, found.commit, found.replayed, waiting, known.events,
        known.newest_ms, known.in_a_window, tuple(known.features),
    )  # fmt: skip


def _field_and_value(plan: StreamPlan, key: str) -> tuple[str, str]:
    fields = list(dict.fromkeys(group.key for group in plan.groups))
    if not fields:
        raise StateError(f"stream {plan.stream.name!r} has no windows, so there is no state")
    named, found, value = key.partition("=")
    if found and named in fields:
        return named, value
    if found and named.isidentifier():
        raise StateError(f"stream {plan.stream.name!r} is not grouped by {named!r}; {nearest(named, fields)}")
    if len(fields) > 1:
        choice = " or ".join(f"{field}={key}" for field in fields)
        raise StateError(f"stream {plan.stream.name!r} is grouped by {', '.join(fields)}; say which: {choice}")
    return fields[0], key


def _hash(kind: Field, value: str, tokeniser: Tokeniser | None) -> int:
    if kind.sensitive:
        if tokeniser is None:
            raise StateError(f"{kind.name} is sensitive and there is no key to find it by; set PELTON_KEY")
        value = tokeniser.token(kind.sensitive, value)
    try:
        column = pa.array([value]).cast(kind.arrow_type)
    except pa.ArrowInvalid:
        raise StateError(f"{kind.name} is {value!r}; it is a {kind.type}") from None
    return int(hash_column(column)[0])


def _look(engine: Engine, by: str, key: int) -> _Found:
    """Ask every group of windows by a field."""
    found = _Found()
    admission = engine.admissions[engine.plan.stream.name]
    for plan, group in zip(engine.plan.groups, engine.groups, strict=True):
        if plan.key != by:
            continue
        rows, values = group.look(key, admission.high_ms, admission.floor_ms)
        found.events = max(found.events, rows)
        newest_ms = _newest_ms(group, key)
        if newest_ms is not None:
            found.newest_ms = max(newest_ms, found.newest_ms or newest_ms)
            found.in_a_window |= newest_ms > admission.high_ms - plan.retention_ms
        found.features += _named(engine.plan, plan, values.tolist() if rows >= 0 else None)
    return found


@dataclass
class _Found:
    """What the groups of one key know together; see `KeyState`."""

    events: int = -1
    newest_ms: int | None = None
    in_a_window: bool = False
    features: list[KeyFeature] = field(default_factory=list)


def _named(plan: StreamPlan, group: GroupPlan, values: Sequence[float] | None) -> list[KeyFeature]:
    found = []
    for number, (node, _, _) in enumerate(group.members):
        value = values[number] if values is not None and node.operation not in OF_AN_EVENT else float("nan")
        column = group.outputs[number]
        known = None if np.isnan(value) else float(value)
        what = node.in_words() + (", only of an event" if node.operation in OF_AN_EVENT else "")
        found.append(KeyFeature(plan.names[column], what, known, plan.specs[column].kind == "category"))
    return found


def _newest_ms(group: Group, key: int) -> int | None:
    """Return the time of a key's newest event."""
    state = group.state
    for slot in np.flatnonzero(state.slot_key == np.uint64(key)):
        meta = state.meta[slot]
        if meta[ws.CAPACITY] >= 0 and meta[ws.END] > meta[ws.FIRST]:
            return int(state.pool[meta[ws.BEGIN] + meta[ws.END] - 1, 0])
    return None
