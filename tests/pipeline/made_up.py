"""Made-up apps and streams for property tests: every aggregate, ties, late events, copies, jumps, labels, re-drives.

Everything is a function of a seed and a few sizes, so an example that fails is small and the same on the next run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from connectors.decode import decode
from connectors.records import Chunk, Records
from pipeline import App, Stream, Task
from pipeline.engine import Engine
from pipeline.plan import StreamPlan, plan_stream
from pipeline.stream import Keyed
from pipeline.windows import Column, WindowFeature

SPANS = ("1ms", "7ms", "50ms", "300ms", "2s", "1m", "90d")
DELAYS = (None, "1ms", "40ms", "300ms")
NUMBERS = ("amount", "clicks", "known", "rated", "amount - clicks", "amount * rated", "if_null(clicks, -1)")
COMPARED = ("device", "place", "clicks", "known", "amount", "rated")
NUMERIC = ("sum", "mean", "rate", "std", "min", "max", "last")
WITH_THOSE_BEFORE = ("changed", "lag", "lag_seconds", "seconds_since_last", "seen", "zscore")  # these take no delay
AGGREGATES = (*NUMERIC, *WITH_THOSE_BEFORE, "count", "distinct", "entropy", "ewm", "quantile", "seconds_since_first",
              "top_share")  # fmt: skip
CONDITIONS = ("{0} > 2", "{0} >= 1 and amount > 3", "is_null({0})", "amount - {0}", "log1p(abs({0})) * 2", "{0}")


@dataclass(frozen=True)
class Shape:
    """What a stream is like.

    Attributes:
        step_ms: largest step of event time from one event to the next.
        lateness_ms: of all streams.
        late: share of events that come out of order, some of them too late.
        copies: share of records that repeat an id.
        keys: how many cards there are; one of them gets half of the events.
        jumps: share of events before which time jumps ahead.
        redriven: share of records that are an earlier one once more, as a re-driven dead letter; above zero, records
            have an append time, and some are from the future.
        natural: a copy is the same record again, and labels come after their events.
    """

    seed: int
    events: int
    step_ms: int
    lateness_ms: int
    late: float = 0.2
    copies: float = 0.05
    keys: int = 3
    jumps: float = 0.01
    redriven: float = 0.0
    natural: bool = False


@dataclass(frozen=True)
class World:
    """The streams of a made-up app."""

    payments: Stream
    logins: Stream
    frauds: Stream


def world_of(
    lateness_ms: int, label_known_after: str | None = None, keys: Mapping[str, str] | None = None, card: str = "string"
) -> World:
    """Return streams; the labels are a stream of their own, or known some time after the event.

    `keys` says what the topics are partitioned by, where it is not the default; `card` is the type of cards.
    """
    keys = keys or {}
    fields = {"card": f"{card}?", "terminal": "int", "device": "string?", "place": "string", "amount": "money",
              "clicks": "int?", "known": "bool", "rated": "number(2)?", "is_fraud": "bool?"}  # fmt: skip
    late = f"{lateness_ms}ms"
    payments = Stream("payments", id="event_id", time="ts", lateness=late, future_tolerance="1s", fields=fields,
                      key=keys.get("payments"))  # fmt: skip
    logins = Stream("logins", id="login_id", time="at", lateness=late, key=keys.get("logins"),
                    fields={"card": card, "place": "string?", "tries": "int?", "score": "number"})  # fmt: skip
    if label_known_after is None:
        frauds = Stream("frauds", id="event_id", time="reported_at", key=keys.get("frauds"),
                        fields={"is_fraud": "int", "card": f"{card}?"})  # fmt: skip
    else:
        frauds = payments.label("is_fraud", known_after=label_known_after).stream
    return World(payments, logins, frauds)


def every_feature(world: World, span: str, delay: str | None) -> dict[str, WindowFeature]:
    """Return every aggregate of the vocabulary over one span, by card."""
    card = world.payments.by("card")
    found: dict[str, WindowFeature] = {}
    for operation in AGGREGATES:
        if delay is None or operation not in WITH_THOSE_BEFORE:
            found[operation] = _feature(random.Random(operation), world.payments, card, operation, span, delay)
    return found


def plan_of(
    world: World, features: Mapping[str, WindowFeature | Column | str], rows_per_key: int = 16_384
) -> StreamPlan:
    """Plan features of payments; the app checks them on the way."""
    task = Task("t", on=world.payments, features=features, model=None, learner=None)
    App("made_up", tasks=[task])
    return plan_stream(world.payments, [task], rows_per_key)


def made_up_features(
    seed: int, world: World, count: int, spans: Sequence[str] = SPANS
) -> dict[str, WindowFeature | Column | str]:
    """Return `count` features from the whole vocabulary, some of them over others."""
    draw = random.Random(seed)
    found: dict[str, WindowFeature | Column | str] = {"paid": "amount"}
    keyed = [world.payments.by("card"), world.payments.by("terminal"), world.payments.by("known")]
    for number in range(count):
        name, kind = f"f{number}", draw.random()
        span, delay = draw.choice(spans), draw.choice(DELAYS)
        if kind < 0.15:
            window = draw.choice(keyed[:2]).last(span, delay=delay)
            found[name] = getattr(window, draw.choice(("count", "sum", "mean", "rate")))(world.frauds.is_fraud)
        elif kind < 0.3:
            operation = draw.choice([each for each in AGGREGATES if each not in ("zscore", "seen", "changed")])
            found[name] = _feature(draw, world.logins, world.logins.by("card"), operation, span, delay)
        elif kind < 0.45:
            other = draw.choice(list(found))
            found[name] = draw.choice(CONDITIONS).format(other) + " + 0"
        elif kind < 0.6:
            over = draw.choice(CONDITIONS).format(draw.choice(list(found)))
            operation = draw.choice(("mean", "sum", "std", "max", "zscore", "count", "quantile"))
            found[name] = _feature(draw, world.payments, draw.choice(keyed), operation, span, delay, over)
        else:
            found[name] = _feature(draw, world.payments, draw.choice(keyed), draw.choice(AGGREGATES), span, delay)
    return found


def _feature(draw: random.Random, stream: Stream, keyed: Keyed, operation: str, span: str, delay: str | None,
             over: str | None = None) -> WindowFeature:  # fmt: skip
    before = operation in WITH_THOSE_BEFORE
    window = keyed.last(span, delay=None if before else delay)
    own = stream.name == "payments"
    number = over or draw.choice(NUMBERS if own else ("tries", "score"))
    value = draw.choice(COMPARED if own else ("place", "tries", "score"))
    match operation:
        case "quantile":
            return window.quantile(number, draw.choice((0, 0.25, 0.5, 0.9, 1, 0.333333)))
        case "ewm":
            return window.ewm(number, draw.choice(("1ms", "30ms", "2s")))
        case "top_share":
            return window.top_share(value, draw.choice((1, 2, 5)))
        case "distinct" | "entropy" | "seen" | "changed":
            return getattr(window, operation)(value)
        case "lag":
            return window.lag(draw.choice((value, number)), draw.choice((1, 2, 5)))
        case "lag_seconds":
            return window.lag_seconds(draw.choice((1, 3)))
        case "seconds_since_last" | "seconds_since_first":
            return getattr(window, operation)()
        case "count":
            return window.count(draw.choice((None, number)))
    return getattr(window, operation)(number)


def made_up_records(shape: Shape) -> dict[str, list[dict]]:
    """Return the records of all three streams, each in the order of its log."""
    draw, time_ms = random.Random(shape.seed), 1_700_000_000_000
    payments: list[dict] = []
    logins: list[dict] = []
    frauds: list[dict] = []
    for number in range(shape.events):
        time_ms += draw.randint(0, shape.step_ms) * (draw.random() < 0.7)
        if draw.random() < shape.jumps:
            time_ms += draw.choice((1_000, 100_000, 20_000_000))
        at = time_ms - draw.randint(0, shape.lateness_ms + shape.step_ms) * (draw.random() < shape.late)
        card = "c0" if draw.random() < 0.5 else draw.choice([None, *(f"c{n}" for n in range(shape.keys))])
        one = {"event_id": f"e{number}", "ts": at, "card": card, "terminal": draw.randint(0, 2),
               "device": draw.choice((None, "d1", "d2", "d3")), "place": draw.choice(("here", "there")),
               "amount": draw.choice((0, 1, 2.5, -2.5, 99.9999, 1e9, round(draw.gauss(0, 50), 4))),
               "clicks": draw.choice((None, 0, 1, 2, 2**45)), "known": draw.random() < 0.5,
               "rated": draw.choice((None, 0.0, 1.25, -1.25)),
               "is_fraud": draw.choice((None, True, False))}  # fmt: skip
        if payments and draw.random() < shape.copies:
            old = draw.choice(payments[-8:])
            one = dict(old) if shape.natural else {**one, "event_id": old["event_id"]}
        if shape.redriven:
            one["append_ms"] = time_ms
            if draw.random() < 0.05:
                one["ts"] = time_ms + draw.choice((1_000, 1_001, 50_000))
            if payments and draw.random() < shape.redriven:
                again = draw.randrange(len(payments))
                one = {**payments[again], "append_ms": time_ms, "redriven_from": again}
        payments.append(one)
        if draw.random() < 0.5:
            login = number if shape.natural else draw.randint(0, 4 * shape.events)
            logins.append({"login_id": f"l{login}", "at": at + draw.randint(-20, 20),
                           "card": f"c{draw.randint(0, shape.keys)}", "place": draw.choice((None, "here", "far")),
                           "tries": draw.choice((None, 1, 2, 3)), "score": draw.choice((0, 0.5, -7, 1e6))})  # fmt: skip
        if draw.random() < 0.4:
            of = f"e{draw.randint(max(0, number - 30), number + (0 if shape.natural else 3))}"
            known_ms = time_ms + draw.choice((0, 0, 1, 40, 300, 2_000))
            frauds.append({"event_id": of, "reported_at": known_ms, "is_fraud": draw.choice((0, 1, 1))})
    cards = {each["event_id"]: each["card"] for each in reversed(payments)}
    for each in frauds:
        each["card"] = cards.get(each["event_id"])
    return {"payments": payments, "logins": logins, "frauds": frauds}


def chunk_of(stream: Stream, records: Sequence[dict], first: int = 0) -> Chunk:
    """Decode records as they would come from a log; the first stands at offset `first`."""
    has_clock = bool(records) and "append_ms" in records[0]
    values = pa.array([(json.dumps(each) + "\n").encode() for each in records], pa.large_binary())
    offsets = np.arange(first, first + len(records), dtype=np.int64)
    decoded = decode(stream.schema, Records(stream.name, 0, values, offsets))
    return Chunk(
        stream.name, 0, offsets, decoded, lambda i: values[i].as_py(),
        np.array([each["append_ms"] for each in records], np.int64) if has_clock else None,
        np.array([each.get("redriven_from", -1) for each in records], np.int64) if has_clock else None,
    )  # fmt: skip


def time_field(stream: Stream) -> str:
    """Return where an event's time stands."""
    return stream.schema.time


def merged(streams: Sequence[Stream], records: Mapping[str, Sequence[dict]]) -> list[tuple[str, int]]:
    """Return (stream, record) of all inputs by the times of their heads, ties in declared order."""
    place = dict.fromkeys((each.name for each in streams), 0)
    order: list[tuple[str, int]] = []
    while heads := [each for each in streams if place[each.name] < len(records[each.name])]:
        head = min(heads, key=lambda each: records[each.name][place[each.name]][time_field(each)])
        order.append((head.name, place[head.name]))
        place[head.name] += 1
    return order


def inputs_of(plan: StreamPlan) -> list[Stream]:
    """Return the streams that the engine reads, in declared order."""
    facts = [plan.facts] if plan.facts is not None and plan.facts.derived_from is None else []
    return [plan.stream, *plan.others, *facts]


def commits_of(
    plan: StreamPlan, records: Mapping[str, Sequence[dict]], size: int, start_ms: int = 0
) -> list[dict[str, Chunk]]:
    """Cut the merged inputs into commits of `size` records, from the first at or past `start_ms` on."""
    streams = inputs_of(plan)
    times = {each.name: [one[time_field(each)] for one in records[each.name]] for each in streams}
    order = merged(streams, records)
    order = order[next((n for n, (name, row) in enumerate(order) if times[name][row] >= start_ms), len(order)) :]
    commits = []
    for at in range(0, len(order), size):
        chunks = {}
        for stream in streams:
            rows = [row for name, row in order[at : at + size] if name == stream.name]
            if rows:
                chunks[stream.name] = chunk_of(stream, [records[stream.name][row] for row in rows], rows[0])
        commits.append(chunks)
    return commits


def features_of(engine: Engine, commits: Sequence[Mapping[str, Chunk]]) -> tuple[np.ndarray, np.ndarray]:
    """Run commits; return (events,) offsets and (events, features)."""
    done = [engine.process(chunks) for chunks in commits]
    none = np.zeros((0, len(engine.plan.names)))
    return np.concatenate([np.zeros(0, np.int64), *(each.offsets for each in done)]), np.concatenate(
        [none, *(each.matrix for each in done)]
    )


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two matrices are the same to the last bit; any null is as good as another."""
    return one.shape == other.shape and np.array_equal(
        np.where(np.isnan(one), np.nan, one).view(np.int64), np.where(np.isnan(other), np.nan, other).view(np.int64)
    )
