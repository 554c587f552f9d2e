"""What a running app shows of itself: counted step by step in the worker's thread, pictured for whoever looks."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ops.views.live_kinds import Told, reader_of
from pipeline.app import App
from pipeline.learning import Learned
from pipeline.live import Step
from pipeline.stages import alone
from pipeline.topics import group_of

Int64s = NDArray[np.int64]
LATENCY_MS_MAX = 60_000  # longer ones are counted as this long
RECENT = 8_192  # newest events: of their latency and share of alerts "now" is
RATES_KEPT = 120  # seconds of events a second
CURVE_KEPT = 240  # points of a quality curve
DECISIONS_KEPT = 64
ALLOWED_EVERY = 12  # of the latest decisions, one in so many is a payment that simply passed


@dataclass(frozen=True)
class Shown:
    """One decision, for people.

    Attributes:
        time_ms: event time.
        who: the entity, a token where it is sensitive; "" if the task has none.
        amount: of the first money field, NaN without one.
        decision: allow, review or block.
        score, threshold: NaN where rules decided alone.
        reason: the one that counts most, "" if it was allowed.
    """

    time_ms: int
    who: str
    amount: float
    decision: str
    score: float
    threshold: float
    reason: str


@dataclass(frozen=True)
class Change:
    """Another version of the models began to serve."""

    at_s: float
    bundle: str
    snapshot: str


@dataclass(frozen=True)
class Picture:
    """All figures of one task at one moment.

    Attributes:
        app, task: names.
        elapsed_s: since the start.
        event_ms: newest event time decided, 0 before the first event.
        decided: events, in this run.
        rates: events in each of the last seconds, oldest first.
        latency_ms, recent_ms: p50, p99 from append to commit: of the whole run, of the newest events; NaN without.
        ledgers: stream -> counts since the app's beginning, every stream closed on its own.
        labels: ledger of the learner's labels; {} without a learner.
        decisions: decision -> count, in this run.
        alert_rate: of the newest events; `alert_target` is what the threshold holds, NaN if it is fixed.
        threshold: of the newest event.
        rung: which models decided last; `rungs` how many events each set of them did, in this run.
        changes: which models began to serve when, oldest first.
        served_auc, learner_auc: prequential, as labels came; NaN while unknown. The curves hold earlier values.
        snapshots, refused: of the learner: how many it published, why the last was not.
        latest: newest decisions, newest first.
        dead: dead letters, in this run.
        seconds: where the worker's time went: see `Step.seconds`.
        told: of a task that reads or looks: examples, and what labels said; None of others.
        problems: what is wrong, in words.
    """

    app: str
    task: str
    elapsed_s: float = 0.0
    event_ms: int = 0
    decided: int = 0
    rates: tuple[int, ...] = ()
    latency_ms: tuple[float, float] = (float("nan"), float("nan"))
    recent_ms: tuple[float, float] = (float("nan"), float("nan"))
    ledgers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    decisions: Mapping[str, int] = field(default_factory=dict)
    alert_rate: float = float("nan")
    alert_target: float = float("nan")
    threshold: float = float("nan")
    rung: str = "rules"
    rungs: Mapping[str, int] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    served_auc: float = float("nan")
    learner_auc: float = float("nan")
    served_curve: tuple[float, ...] = ()
    learner_curve: tuple[float, ...] = ()
    snapshots: int = 0
    refused: str = ""
    latest: tuple[Shown, ...] = ()
    dead: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    told: Told | None = None
    problems: tuple[str, ...] = ()


def is_closed(ledger: Mapping[str, int]) -> bool:
    """Whether every record of a stream is accounted for."""
    return ledger["taken"] == sum(count for name, count in ledger.items() if name != "taken")


class LiveFigures:
    """Counts the steps of one task. `add` is called by the worker, `picture` by whoever shows it.

    Args:
        app: whose decisions.
        task: which of its tasks; the first, if not given.
    """

    def __init__(self, app: App, task: str | None = None) -> None:
        self._task = app.task(task) if task else app.tasks[0]
        self._reader = reader_of(self._task)
        self._group, plan = group_of(app.name, self._task.on.name), app.plans[self._task.on.name]
        self._topics = {each.topic for each in alone(plan, self._group).inputs}
        self._is_alone = len(app.plans) == 1
        money = [each.name for each in self._task.on.schema.fields if each.type == "money"]
        self._money = money[0] if money else None
        self._lock = threading.Lock()
        self._latency = np.zeros(LATENCY_MS_MAX + 1, np.int64)
        self._recent, self._alerts = np.zeros(RECENT, np.int64), np.zeros(RECENT, np.int64)  # rings by number of event
        self._rates: deque[tuple[int, int]] = deque(maxlen=RATES_KEPT)  # second, events in it
        self._latest: deque[Shown] = deque(maxlen=DECISIONS_KEPT)
        self._since_allowed = 0
        target = getattr(self._task.threshold, "alert_rate", float("nan"))
        self._now = Picture(app.name, self._task.name, alert_target=target)
        self._counts = dict.fromkeys(("allow", "review", "block"), 0)
        self._seconds: dict[str, float] = {}
        self._rungs: dict[str, int] = {}
        self._curve_at = -1

    def add(self, step: Step, at_s: float) -> None:
        """Count a step that was committed `at_s` seconds after the start."""
        rows = step.decisions.get(self._task.name)
        with self._lock:
            self._take_manifest(step, at_s)
            for name, spent in step.seconds.items():
                self._seconds[name] = self._seconds.get(name, 0.0) + spent
            if rows is not None and rows.num_rows:
                self._take_decisions(step, rows, at_s)

    def _take_manifest(self, step: Step, at_s: float) -> None:
        manifest, name = step.manifest, self._task.name
        mine = {each: counts for each, counts in manifest.ledgers.items() if self._is_mine(each)}
        labels = manifest.labels if self._reader is not None else self._now.labels
        now = replace(
            self._now, ledgers={**self._now.ledgers, **mine}, labels=labels,
            rung=manifest.rungs.get(name, self._now.rung), dead=self._now.dead + step.dead,
        )  # fmt: skip
        served = (manifest.bundles.get(name, ""), manifest.snapshots.get(name, ""))
        if name in manifest.bundles and (
            not now.changes or served != (now.changes[-1].bundle, now.changes[-1].snapshot)
        ):
            now = replace(now, changes=(*now.changes, Change(at_s, *served)))
        self._now = now

    def _is_mine(self, topic: str) -> bool:
        """Whether the task's stream, what belongs to it or what is between its stages stands in a topic."""
        return self._is_alone or topic in self._topics or topic.startswith(f"{self._group}.")

    def _take_decisions(self, step: Step, rows: pa.RecordBatch, at_s: float) -> None:
        count = rows.num_rows
        self._rungs[self._now.rung] = self._rungs.get(self._now.rung, 0) + count
        latency_ms = np.clip(step.committed_ms - step.append_ms, 0, LATENCY_MS_MAX)
        within = np.bincount(latency_ms)
        self._latency[: within.size] += within
        decisions = rows.column("decision")
        is_alert = pc.not_equal(decisions, "allow").to_numpy(zero_copy_only=False)
        at = np.arange(self._now.decided, self._now.decided + count)[-RECENT:] % RECENT
        self._recent[at] = latency_ms[-RECENT:]
        self._alerts[at] = is_alert[-RECENT:]
        second = int(at_s)
        if self._rates and self._rates[-1][0] == second:
            self._rates[-1] = (second, self._rates[-1][1] + count)
        else:
            self._rates.append((second, count))
        for each in pc.value_counts(decisions).to_pylist():
            self._counts[each["values"]] += each["counts"]
        threshold = rows.column("threshold")[count - 1].as_py()
        self._now = replace(
            self._now, decided=self._now.decided + count,
            event_ms=max(self._now.event_ms, pc.max(rows.column("time_ms")).as_py()),
            threshold=float("nan") if threshold is None else threshold,
        )  # fmt: skip
        if self._reader is not None:
            self._reader.add(step.rows, rows)
            return
        self._show(step.rows, rows, np.flatnonzero(is_alert)[-DECISIONS_KEPT:].tolist())

    def _show(self, events: pa.RecordBatch, rows: pa.RecordBatch, chosen: list[int]) -> None:
        """Keep what people want to see: every alert, and now and then what was allowed."""
        self._since_allowed += len(chosen)
        if self._since_allowed >= ALLOWED_EVERY or not self._latest:
            chosen, self._since_allowed = [*chosen, rows.num_rows - 1], 0
        entity = self._task.entity
        for row in sorted(set(chosen)):
            who = events.column(entity)[row].as_py() if entity in events.schema.names else ""
            amount = events.column(self._money)[row].as_py() if self._money else None
            score, threshold = rows.column("score")[row].as_py(), rows.column("threshold")[row].as_py()
            reasons = rows.column("reasons")[row].as_py() or []
            time_ms, reason = rows.column("time_ms")[row].as_py(), reasons[0] if reasons else ""
            shown = Shown(
                time_ms, str(who or ""), _number(amount), rows.column("decision")[row].as_py(), _number(score),
                _number(threshold), reason,
            )  # fmt: skip
            self._latest.appendleft(shown)

    @property
    def takes_labels(self) -> bool:
        """Whether labels are to be given to `label`: no learner says how good the decisions are."""
        return self._reader is not None

    def label(self, ids: list[str], said: list[str | None]) -> None:
        """Take labels: ids of events, and what was said of each."""
        if self._reader is not None:
            with self._lock:
                self._reader.label(ids, said)

    def picture(
        self, elapsed_s: float, learned: Mapping[str, Learned] | None = None, problems: tuple[str, ...] = ()
    ) -> Picture:
        """Return all figures as of now; `learned` is what `AppRunner.learned` says."""
        mine = (learned or {}).get(self._task.name)
        with self._lock:
            now = self._now
            if mine is not None:
                now = self._with_quality(now, mine, elapsed_s)
            newest = min(now.decided, RECENT)
            self._now = now
            return replace(
                now, elapsed_s=elapsed_s, rates=self._rates_until(int(elapsed_s)), problems=problems,
                latency_ms=_of_counts(self._latency), recent_ms=_of_values(self._recent[:newest]),
                decisions=dict(self._counts), rungs=dict(self._rungs), latest=tuple(self._latest),
                seconds=dict(self._seconds),
                alert_rate=float(self._alerts[:newest].mean()) if newest else float("nan"),
                told=self._reader.told() if self._reader is not None else None,
            )  # fmt: skip

    def _with_quality(self, now: Picture, mine: Learned, elapsed_s: float) -> Picture:
        now = replace(
            now, labels=mine.counts, served_auc=mine.live_auc, learner_auc=mine.progressive_auc,
            snapshots=mine.snapshots, refused=mine.refused,
        )  # fmt: skip
        if int(elapsed_s) == self._curve_at or not np.isfinite(mine.live_auc):
            return now
        self._curve_at = int(elapsed_s)
        served, learner = (*now.served_curve, mine.live_auc), (*now.learner_curve, mine.progressive_auc)
        return replace(now, served_curve=served[-CURVE_KEPT:], learner_curve=learner[-CURVE_KEPT:])

    def _rates_until(self, second: int) -> tuple[int, ...]:
        """Return events per whole second up to this one, which is still under way, zeros included."""
        counts = dict(self._rates)
        first = max(min(counts, default=second), second - RATES_KEPT)
        return tuple(counts.get(each, 0) for each in range(first, second))


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _of_values(latency_ms: Int64s) -> tuple[float, float]:
    if not latency_ms.size:
        return float("nan"), float("nan")
    p50, p99 = np.percentile(latency_ms, (50, 99), method="higher")
    return float(p50), float(p99)


def _of_counts(counts: Int64s) -> tuple[float, float]:
    total = int(counts.sum())
    if not total:
        return float("nan"), float("nan")
    places = np.searchsorted(np.cumsum(counts), [total * 0.5, total * 0.99], side="left")
    return float(places[0]), float(places[1])
