"""The live features of one key, from the newest snapshots and the log behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from connectors.columns import hash_column
from connectors.log import Log
from connectors.partitions import partitions_of
from connectors.schema import Field
from connectors.secrets import Tokeniser
from kernels import window_state as ws
from ops.settings import Settings
from ops.terminal import counted
from ops.views.model import when
from pipeline.app import App
from pipeline.engine import Engine
from pipeline.errors import nearest
from pipeline.groups import Group
from pipeline.plan import GroupPlan, StreamPlan
from pipeline.recovery import recover
from pipeline.stages import LINES, Stage, decoding, stages_of
from pipeline.state_store import StateStore
from pipeline.topics import count_partitions

if TYPE_CHECKING:
    from connectors.formats import Decode


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
        waiting: records of producers that nothing has decided yet, in the partitions looked at; ends of transactions
            count too on Kafka.
        events: of the key in its windows' memory; -1 if it has none.
        newest_ms: event time of the newest of them; None if there is none.
        in_a_window: whether one of its events is young enough for one of its windows.
        features: all of this key.
        kept_in: stages and partitions that know it; () if there is one partition only.
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
    kept_in: tuple[str, ...] = ()

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
        if self.kept_in:
            pairs.append(("kept in", ", ".join(self.kept_in)))
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


def look_up(
    app: App,
    settings: Settings,
    log: Log,
    tokeniser: Tokeniser | None,
    stream: str,
    key: str,
    decoders: Mapping[str, Decode] | None = None,
) -> KeyState:
    """Return what is known about a key, in each stage that computes something by it.

    Args:
        stream: a decided stream of the app.
        key: `card=4111...`, or the value alone if the stream is grouped by one field.
        decoders: of streams whose messages are no JSON, by name.

    Raises:
        StateError: there is no such stream or field, or the value does not fit it.
        PeltonError: topics are missing or differ in their partitions.
    """
    if stream not in app.plans:
        raise StateError(f"app {app.name!r} decides no stream {stream!r}; {nearest(stream, app.plans)}")
    plan = app.plans[stream]
    by, value = _field_and_value(plan, key)
    texts = _as_sent_and_kept(plan.stream.schema.field(by), value, tokeniser)
    count = count_partitions(app, log)
    stages = [each for each in stages_of(app, count) if each.plan.stream is plan.stream]
    looks = [
        _look_in(stage, settings, log, tokeniser, by, texts)
        for stage in decoding(stages, decoders or {})
        if any(group.key == by for group in stage.plan.groups)
    ]
    newest_ms = [each.newest_ms for each in looks if each.newest_ms is not None]
    return KeyState(
        stream, by, max(each.as_of_ms for each in looks), max(each.commit for each in looks),
        sum(each.replayed for each in looks), sum(each.waiting for each in looks),
        max(each.events for each in looks), max(newest_ms, default=None), any(each.in_a_window for each in looks),
        tuple(feature for each in looks for feature in each.features),
        tuple(f"{each.group} partition {each.partition}" for each in looks) if count > 1 else (),
    )  # fmt: skip


def _look_in(
    stage: Stage, settings: Settings, log: Log, tokeniser: Tokeniser | None, by: str, texts: tuple[pa.Array, pa.Array]
) -> _Found:
    """Ask a stage, in the partition where the key belongs; producers may have put it elsewhere at the entrance."""
    as_sent, as_kept = texts
    key = int(hash_column(as_kept)[0])
    there = int(partitions_of(as_sent if stage.is_entrance else as_kept, stage.partitions)[0])
    others = [each for each in range(stage.partitions) if each != there] if stage.is_entrance else []
    first: _Found | None = None
    for partition in (there, *others):
        store = StateStore.of(settings.state, stage.group, partition)
        recovered = recover(stage, log, stage.group, partition, store, tokeniser)
        found = _look(recovered.engine, by, key)
        found.group, found.partition = stage.group, partition
        found.commit, found.replayed = recovered.commit, recovered.replayed
        lines = [each.topic for each in stage.inputs if each.kind == LINES]
        found.waiting = sum(max(log.end(each, partition) - recovered.positions[each], 0) for each in lines)
        if found.events >= 0:
            return found
        first = first or found
    assert first is not None
    return first


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


def _as_sent_and_kept(kind: Field, value: str, tokeniser: Tokeniser | None) -> tuple[pa.Array, pa.Array]:
    """Return a key as producers send it and as it is kept: a token, if it is sensitive."""
    kept = value
    if kind.sensitive:
        if tokeniser is None:
            raise StateError(f"{kind.name} is sensitive and there is no key to find it by; set PELTON_KEY")
        kept = tokeniser.token(kind.sensitive, value)
    try:
        column = pa.array([kept]).cast(kind.arrow_type)
    except pa.ArrowInvalid:
        raise StateError(f"{kind.name} is {value!r}; it is a {kind.type}") from None
    return (pa.array([value]) if kind.sensitive else column), column


def _look(engine: Engine, by: str, key: int) -> _Found:
    """Ask every group of windows by a field."""
    floor_ms, lateness_ms = engine.floor_ms, engine.plan.stream.lateness_ms
    found = _Found(max(floor_ms + lateness_ms, 0))
    for plan, group in zip(engine.plan.groups, engine.groups, strict=True):
        if plan.key != by:
            continue
        rows, values = group.look(key, floor_ms + lateness_ms, floor_ms)
        found.events = max(found.events, rows)
        newest_ms = _newest_ms(group, key)
        if newest_ms is not None:
            found.newest_ms = max(newest_ms, found.newest_ms or newest_ms)
            found.in_a_window |= newest_ms > floor_ms + lateness_ms - plan.retention_ms
        found.features += _named(engine.plan, plan, values.tolist() if rows >= 0 else None)
    return found


@dataclass
class _Found:
    """What the groups of one key in a stage know together; see `KeyState`."""

    as_of_ms: int
    group: str = ""
    partition: int = 0
    commit: int = 0
    replayed: int = 0
    waiting: int = 0
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
