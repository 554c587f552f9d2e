"""Verification: a sample of served features recomputed by the oracle, and compared."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.secrets import Tokeniser
from kernels.floors import EVENT
from pipeline.arrivals import Arrival
from pipeline.carried import Carried
from pipeline.oracle import Oracle
from pipeline.oracle_history import History
from pipeline.oracle_inputs import LONG_AGO_MS, computed_here
from pipeline.plan import StreamPlan
from pipeline.stages import Stage
from pipeline.windows import Derived, WindowFeature

Int64s = NDArray[np.int64]
Float64s = NDArray[np.float64]
Progress = Callable[[int, int], None]
SAMPLE_DEFAULT, SHOWN_MAX = 2_000, 20
DEEP_ROWS_MAX = 100_000_000
JUDGEMENT = "(applied or not)"


class Served(Protocol):
    """What was served for one commit: (events,) rising offsets, and (events, features) float64 with NaN for null."""

    @property
    def offsets(self) -> Int64s:
        """(events,) where the decided events stand in their input, rising."""

    @property
    def matrix(self) -> Float64s:
        """(events, features) what was served."""


@dataclass(frozen=True)
class Mismatch:
    """A value that is not what it should be."""

    event_id: str
    feature: str
    served: float
    recomputed: float

    def __str__(self) -> str:
        return f"{self.feature} of {self.event_id}: served {self.served!r}, recomputed {self.recomputed!r}"


@dataclass(frozen=True)
class Verification:
    """What came out.

    Attributes:
        events: how many were applied.
        events_checked: how many of them were drawn.
        values_checked: values recomputed and compared.
        values_skipped: values over expressions of features, of the last events drawn, for which there was no time.
        mismatches: how many values differ.
        misjudged: events that were applied and should not have been, or the other way round.
        first: the first mismatches.
    """

    events: int
    events_checked: int
    values_checked: int
    values_skipped: int
    mismatches: int
    misjudged: int
    first: tuple[Mismatch, ...]

    @property
    def ppm(self) -> float:
        """Mismatches, misjudged events included, per million of values checked."""
        return 1e6 * (self.mismatches + self.misjudged) / max(self.values_checked, 1)

    @property
    def holds(self) -> bool:
        """Whether everything agrees."""
        return self.mismatches == 0 and self.misjudged == 0


class Verifier:
    """Collects commits, then checks a sample.

    Keeps what `History` keeps, and of what was served: the sample, and the features that others are computed from.

    Args:
        plan: what was computed; one stage of it, if there are several.
        sample: how many events to check, drawn evenly from all.
        seed: of the draw.
        tokeniser: for sensitive fields.
        deep_rows_max: how many rows may be looked through for features over features; what is left then, is skipped.
    """

    def __init__(
        self, plan: StreamPlan | Stage, sample: int = SAMPLE_DEFAULT, seed: int = 0,
        tokeniser: Tokeniser | None = None, deep_rows_max: int = DEEP_ROWS_MAX,
    ) -> None:  # fmt: skip
        self._history = History(plan, tokeniser)
        self._stage, self._plan = self._history.stage, self._history.plan
        self._size, self._deep_rows_max, plan = sample, deep_rows_max, self._plan
        self._random = np.random.default_rng(seed)
        self._drawn: dict[int, tuple[int, str, Float64s]] = {}  # place in the sample -> row, event id, what was served
        used = {name for each in plan.expressions.values() for name in each.names}
        self._between = {column: array("d") for column, name in enumerate(plan.names) if name in used}
        self._events, self._rows, self._drawn_from, self._misjudged = 0, 0, 0, 0
        self._first: list[Mismatch] = []

    def before(self, chunks: Mapping[str, Arrival]) -> None:
        """Take what came before the commits to check: windows see it."""
        count = len(self._history.add(chunks))
        for values in self._between.values():
            values.extend([float("nan")] * count)
        self._rows += count

    def add(self, chunks: Mapping[str, Arrival], served: Served, only: Int64s | None = None) -> None:
        """Take the next commit; events at the offsets `only` are checked, all if None."""
        applied = self._history.add(chunks)
        self._compare_judgement(applied, served.offsets, only)
        at = np.searchsorted(served.offsets, applied)
        there = (at < len(served.offsets)) & np.isin(applied, served.offsets)
        matrix = np.full((len(applied), len(self._plan.names)), np.nan)
        matrix[there] = served.matrix[at[there]]
        for column, values in self._between.items():
            values.frombytes(np.ascontiguousarray(matrix[:, column]).tobytes())
        self._draw(applied, matrix, chunks, np.arange(len(applied)) if only is None else _places(applied, only))
        self._events += len(applied)
        self._rows += len(applied)

    def _compare_judgement(self, applied: Int64s, served: Int64s, only: Int64s | None) -> None:
        differing = np.setxor1d(applied, served)
        for offset in (differing if only is None else np.intersect1d(differing, only)).tolist():
            self._misjudged += 1
            if len(self._first) < SHOWN_MAX:
                was = float(offset in served)
                self._first.append(Mismatch(f"the event at offset {offset}", JUDGEMENT, was, 1.0 - was))

    def _draw(self, applied: Int64s, matrix: Float64s, chunks: Mapping[str, Arrival], among: Int64s) -> None:
        """Keep an even sample of all events so far (Vitter 1985, algorithm R); of these, the ones at places `among`."""
        numbers = self._drawn_from + np.arange(among.size)
        self._drawn_from += among.size
        places = np.full(len(applied), self._size)
        places[among] = np.where(numbers < self._size, numbers, self._random.integers(0, numbers + 1))
        drawn = np.flatnonzero(places < self._size)
        if not drawn.size:
            return
        arrival = chunks[self._stage.main.topic]
        if isinstance(arrival, Carried):
            rows, offsets = arrival.rows, arrival.offsets[arrival.kinds == EVENT]
        else:
            rows, offsets = arrival.decoded.rows, arrival.offsets[arrival.decoded.index]
        at = np.searchsorted(offsets, applied[drawn])
        ids = rows.column(self._plan.stream.schema.id).take(pa.array(at)).to_pylist()
        for row, event_id in zip(drawn.tolist(), ids, strict=True):
            self._drawn[int(places[row])] = (self._rows + row, str(event_id), matrix[row].copy())

    def finish(
        self, progress: Progress | None = None, known_since_ms: int = LONG_AGO_MS, ordered_since_ms: int = LONG_AGO_MS
    ) -> Verification:
        """Check the sample.

        Args:
            progress: is told how many of how many steps are done.
            known_since_ms: event time from which on everything is here; values that need more are skipped.
            ordered_since_ms: from which on it is known how inputs were merged; windows over features that see other
                streams or facts need it.
        """
        sample = sorted(self._drawn.values(), key=lambda each: each[0])
        order = self._random.permutation(len(sample))  # what is skipped, is not the end of the stream
        served = {row: values for row, _, values in sample}
        oracle = Oracle(self._history, lambda row, column: self._served(served, row, column))
        # features over features last: one value of them can take a thousand others
        here = set(computed_here(self._stage))
        levels = [(n, level) for n, level in zip(self._plan.names, self._plan.levels, strict=True) if n in here]
        passes = [[name for name, level in levels if (level > 0) is deep] for deep in (False, True)]
        checked, skipped, wrong, rows_max = 0, 0, [], 0
        reaches, mixed = reaches_ms(self._stage), self._mixed()
        for deep, names in enumerate(passes):
            rows_max = oracle.rows_seen + self._deep_rows_max
            for done, number in enumerate(order.tolist()):
                row, event_id, values = sample[number]
                enough = bool(deep) and oracle.rows_seen > rows_max
                time_ms = self._history.applied[self._plan.stream.name].times_ms[row]
                since_ms = {name: ordered_since_ms if name in mixed else known_since_ms for name in names}
                known = [] if enough else [name for name in names if reaches[name] <= time_ms - since_ms[name]]
                skipped += len(names) - len(known)
                for name in known:
                    recomputed, found = oracle.recompute(row, name), float(values[self._plan.names.index(name)])
                    checked += 1
                    if not oracle.agrees(row, name, found, recomputed):
                        wrong.append((row, Mismatch(event_id, name, found, recomputed)))
                if progress is not None and passes[deep]:
                    progress(done + 1 + deep * len(sample), len(sample) * (2 if passes[1] else 1))
        shown = [mismatch for _, mismatch in sorted(wrong, key=lambda each: each[0])][: SHOWN_MAX - len(self._first)]
        return Verification(
            self._events, len(sample), checked, skipped, len(wrong), self._misjudged, (*self._first, *shown)
        )

    def _mixed(self) -> set[str]:
        """Return windows over features that depend on how inputs were merged, at the time of each event they see."""
        nodes = dict(zip(self._plan.names, self._plan.nodes, strict=True))

        def sees_others(name: str) -> bool:
            node = nodes.get(name)
            own = isinstance(node, WindowFeature) and (node.facts is not None or node.stream is not self._plan.stream)
            return own or any(map(sees_others, names_in(self._plan, node)))

        def is_mixed(name: str) -> bool:
            made_of = names_in(self._plan, nodes.get(name))
            is_window = isinstance(nodes.get(name), WindowFeature)
            return (is_window and any(map(sees_others, made_of))) or any(map(is_mixed, made_of))

        return {name for name in computed_here(self._stage) if is_mixed(name)}

    def _served(self, sample: Mapping[int, Float64s], row: int, column: int) -> float | None:
        if column in self._between:
            return self._between[column][row]
        return float(sample[row][column]) if row in sample else None


def _places(offsets: Int64s, of: Int64s) -> Int64s:
    return np.flatnonzero(np.isin(offsets, of))


def names_in(plan: StreamPlan, node: object) -> tuple[str, ...]:
    """Return the fields and features that a feature is made of."""
    text = node.text if isinstance(node, Derived) else getattr(node, "input", None) or ""
    expression = plan.expressions.get(text)
    return tuple(expression.names) if expression is not None else ()


def reaches_ms(stage: Stage) -> dict[str, int]:
    """Return how far back each feature that a stage computes looks, over the features that it is made of."""
    plan, nodes = stage.plan, dict(zip(stage.plan.names, stage.plan.nodes, strict=True))
    carried = {plan.names[column] for column in stage.carried}
    found: dict[str, int] = {}

    def reach(name: str) -> int:
        if name in carried or name not in nodes:
            return 0
        if name not in found:
            node = nodes[name]
            own = node.span_ms + node.delay_ms if isinstance(node, WindowFeature) else 0
            found[name] = own + max(map(reach, names_in(plan, node)), default=0)
        return found[name]

    return {name: reach(name) for name in computed_here(stage)}


def verify(
    plan: StreamPlan | Stage,
    commits: Iterable[tuple[Mapping[str, Arrival], Served]],
    sample: int = SAMPLE_DEFAULT,
    seed: int = 0,
    tokeniser: Tokeniser | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Recompute the features of a sample of events, from what came in and what was served for it.

    Args:
        plan: what was computed; one stage of it, if there are several.
        commits: what came in with what was served, in order, for example a `Replay`.
        sample: how many events to check.
        seed: of the draw.
        tokeniser: for sensitive fields.
        progress: is told how many of how many steps are done.
    """
    verifier = Verifier(plan, sample, seed, tokeniser)
    for chunks, served in commits:
        verifier.add(chunks, served)
    return verifier.finish(progress)
