"""The oracle: any feature of any event, recomputed by looking through every earlier event of its key.

Slow, obvious, and independent: it shares declarations and the evaluation of expressions with the engine, but no kernel,
hash, state or running total.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import oracle_aggregates as by_definition
from pipeline.oracle_history import Applied, Facts, History
from pipeline.oracle_inputs import COMPARED, fact_key
from pipeline.plan import EXPRESSION_DECIMALS
from pipeline.row_columns import UNITS_MAX, code_of_text
from pipeline.windows import Column, Derived, WindowFeature

Int64s = NDArray[np.int64]
Float64s = NDArray[np.float64]
Served = Callable[[int, int], float | None]
RELATIVE = 1e-9
ROUNDING = 1e-13  # of the largest magnitude: sums of floating point weights, where values of both signs cancel
EXACT = ("count", "distinct", "seen", "changed")


@dataclass(frozen=True)
class Seen:
    """The rows that a window shows, in (time, order of arrival), and which of them come before the event itself."""

    rows: Int64s
    before: Int64s


class Oracle:
    """Recomputes features.

    Args:
        history: what was applied; complete before the first question.
        served: (row, feature) -> the value that was served, None if not at hand. Where it agrees with the recomputed
            one it takes its place in what is computed from it, so that no comparison turns on the last bit.
    """

    def __init__(self, history: History, served: Served | None = None) -> None:
        self.plan, self.history, self._served = history.plan, history, served
        self._main = history.applied[history.plan.stream.name]
        self._column_of = {name: column for column, name in enumerate(self.plan.names)}
        self._indexes: dict[tuple[str, str], tuple[Int64s, Int64s]] = {}
        self._highest: dict[tuple[str, str, int], Int64s] = {}
        self._arrays: dict[int, NDArray] = {}
        self._done: dict[tuple[int, int], float] = {}
        self._sizes: dict[tuple[int, int], float] = {}
        self.rows_seen = 0  # in all windows so far: what it costs

    def recompute(self, row: int, name: str) -> float:
        """Return a feature of the event in a row of the decided stream's applied events; NaN is null."""
        column = self._column_of[name]
        if (row, column) not in self._done:
            node = self.plan.nodes[column]
            found: float | None
            if column in self.history.carried:  # as an earlier stage computed it, and wrote it into this one's log
                found = self.history.carried[column][row]
            elif isinstance(node, Column):
                found = self._main.numbers[node.name][row]
            elif isinstance(node, Derived):
                found = float(self._expression(node.text, np.array([row]))[0])
            else:
                found = self._window_feature(row, column, node)
            self._done[row, column] = float("nan") if found is None else found
        return self._done[row, column]

    def value(self, row: int, name: str) -> float:
        """Return a feature as others are computed from it: as it was served, if that is right."""
        recomputed = self.recompute(row, name)
        served = self._served(row, self._column_of[name]) if self._served is not None else None
        return served if served is not None and self.agrees(row, name, served, recomputed) else recomputed

    def agrees(self, row: int, name: str, served: float, recomputed: float) -> bool:
        """Whether a served value is the recomputed one: counts exactly, others within 1e-9 of it, null with null."""
        if np.isnan(served) or np.isnan(recomputed):
            return bool(np.isnan(served) and np.isnan(recomputed))
        node = self.plan.nodes[self._column_of[name]]
        if isinstance(node, WindowFeature) and node.operation in EXACT:
            return served == recomputed
        size = self._sizes.get((row, self._column_of[name]), 0.0)
        return abs(served - recomputed) <= max(RELATIVE * max(abs(served), abs(recomputed)), ROUNDING * size)

    def _expression(self, text: str, rows: Int64s) -> Float64s:
        """Evaluate an expression over the fields and features of some events of the decided stream."""
        expression = self.plan.expressions[text]
        columns: dict[str, Float64s] = {}
        for name in expression.names:
            if name in self.plan.stream.schema.names:
                columns[name] = self._array(self._main.numbers[name])[rows]
            else:
                columns[name] = np.array([self.value(int(row), name) for row in rows], np.float64)
        return expression.evaluate(columns, code_of_text, len(rows))

    def _window_feature(self, row: int, column: int, node: WindowFeature) -> float | None:
        time_ms, floor_ms, told_at = (
            each[row] for each in (self._main.times_ms, self._main.floors_ms, self._main.told_at)
        )
        oldest_ms = max(time_ms, floor_ms) - node.delay_ms - node.span_ms  # even a re-driven event sees no further back
        key = self._main.values[node.key][row]
        if node.facts is not None:
            key = self._main.values[fact_key(self.history.stage, node.key)][row]
            return self._of_facts(node, key, told_at, oldest_ms, time_ms)
        source = self.history.applied[node.stream.name]
        own = node.stream is self.plan.stream
        rows = self._rows_of_key(node.stream.name, node.key, source.values[node.key], key)
        told = self._array(source.told_at)[rows]
        end = np.searchsorted(told, told_at, side="right" if own else "left")
        rows = rows[self._first_above(node.stream.name, node.key, key, rows, source, oldest_ms) : end]
        times = self._array(source.times_ms)[rows]
        kept = np.argsort(times, kind="stable")[-self.plan.rows_per_key :]  # the newest, in (time, order of arrival)
        kept = kept[(times[kept] > oldest_ms) & (times[kept] <= time_ms - node.delay_ms)]
        seen = rows[kept]
        self.rows_seen += len(seen)
        if node.operation == "ewm":
            units, scale = self._units(node, source, seen)
            self._sizes[row, column] = max((abs(each) for each in by_definition.there(units)), default=0) / scale
        return self._aggregate(node, row, source, Seen(seen, seen[seen != row] if own else seen))

    def _first_above(self, name: str, key: str, value: int, rows: Int64s, source: Applied, bound_ms: int) -> int:
        """Return the first of a key's rows with a time above the bound: those before it are too old for a window."""
        if (name, key, value) not in self._highest:
            self._highest[name, key, value] = np.maximum.accumulate(self._array(source.times_ms)[rows])
        return int(np.searchsorted(self._highest[name, key, value], bound_ms, side="right"))

    def _of_facts(self, node: WindowFeature, key: int, told_at: int, oldest_ms: int, time_ms: int) -> float | None:
        """Compute an aggregate of what was known by the time of the event about earlier ones."""
        facts: Facts = self.history.facts
        rows = self._rows_of_key("facts", node.key, facts.values[node.key], key)
        rows = rows[: np.searchsorted(self._array(facts.told_at)[rows], told_at, side="left")]
        times = self._array(facts.times_ms)[rows]
        kept = np.argsort(times, kind="stable")[-self.plan.rows_per_key :]
        kept = kept[(times[kept] > oldest_ms) & (times[kept] <= time_ms - node.delay_ms)]
        rows = rows[kept]
        rows = rows[self._array(facts.known_ms)[rows] <= time_ms]
        number, units = int(self._array(facts.weights)[rows].sum()), int(self._array(facts.units)[rows].sum())
        if node.operation == "count":
            return float(number)
        if number == 0:
            return None
        return float(units) if node.operation == "sum" else units / number

    def _aggregate(self, node: WindowFeature, row: int, source: Applied, seen: Seen) -> float | None:
        times_ms, time_ms = self._array(source.times_ms), self._main.times_ms[row]
        if node.operation == "seconds_since_first":
            return (time_ms - int(times_ms[seen.rows[0]])) / 1000 if len(seen.rows) else None
        if node.operation in ("seconds_since_last", "lag_seconds", "lag"):
            back = node.parameter if node.operation != "seconds_since_last" else 1
            if len(seen.before) < back:
                return None
            at = seen.before[-back:][:1]
            return self._lag(node, source, at) if node.operation == "lag" else (time_ms - int(times_ms[at[0]])) / 1000
        if node.operation in COMPARED:
            return self._of_values(node, row, source, seen)
        if node.input is None or (self._is_text(node) and node.operation == "count"):
            return float(len(seen.rows))
        units, scale = self._units(node, source, seen.rows)
        if node.operation == "zscore":
            before, _ = self._units(node, source, seen.before)
            return by_definition.zscore(before, self._units(node, source, np.array([row]))[0][0])
        if node.operation == "ewm":
            return by_definition.weighted_mean(units, times_ms[seen.rows].tolist(), scale, node.parameter)
        if node.operation == "quantile":
            return by_definition.quantile(units, scale, node.parameter)
        if node.operation in ("min", "max"):
            return by_definition.extreme(units, scale, node.operation == "max")
        if node.operation == "count":
            return float(len(by_definition.there(units)))
        simple = {"sum": "total", "rate": "mean", "last": "newest"}.get(node.operation, node.operation)
        return getattr(by_definition, simple)(units, scale)

    def _of_values(self, node: WindowFeature, row: int, source: Applied, seen: Seen) -> float | None:
        assert node.input is not None
        values = self._array(source.values[node.input])
        held, own = values[seen.rows].tolist(), None
        if node.operation == "distinct":
            return float(len(set(held)))
        if node.operation == "entropy":
            return by_definition.entropy(held)
        if node.operation == "top_share":
            return by_definition.top_share(held, node.parameter)
        own = values[row]
        before = values[seen.before].tolist()
        if node.operation == "seen":
            return float(own in before)
        return float(before[-1] != own) if before else None

    def _lag(self, node: WindowFeature, source: Applied, at: Int64s) -> float | None:
        if self._is_text(node):
            assert node.input is not None
            value = source.values[node.input][int(at[0])]
            return self.history.texts.categories[value] if value >= 0 else None
        units, scale = self._units(node, source, at)
        return None if units[0] is None else units[0] / scale

    def _is_text(self, node: WindowFeature) -> bool:
        return node.input in node.stream.schema.names and node.stream.schema.field(node.input or "").type == "string"

    def _units(self, node: WindowFeature, source: Applied, rows: Int64s) -> tuple[Sequence[int | None], int]:
        """Return the input of a feature in some rows, as whole numbers of its grid, and how many make one.

        Windows keep numbers with the decimals that are declared: this rounding is part of what a feature is.
        """
        assert node.input is not None
        if node.input in node.stream.schema.names:
            decimals, numbers = (
                node.stream.schema.field(node.input).decimals,
                self._array(source.numbers[node.input])[rows],
            )
        else:
            decimals, numbers = EXPRESSION_DECIMALS, self._expression(node.input, rows)
        scaled = np.rint(numbers * 10.0**decimals)
        good = np.abs(scaled) <= UNITS_MAX  # not so for null
        units = np.where(good, scaled, 0).astype(np.int64).tolist()
        if not good.all():
            units = [each if known else None for each, known in zip(units, good.tolist(), strict=True)]
        return units, 10**decimals

    def _rows_of_key(self, source: str, key: str, values: Sequence[int], value: int) -> Int64s:
        """Return the rows with a key, in the order in which they came; none for null."""
        if (source, key) not in self._indexes:
            column = np.array(values, np.int64)
            order = np.argsort(column, kind="stable")
            self._indexes[source, key] = (order, column[order])
        order, ordered = self._indexes[source, key]
        if value < 0:
            return np.zeros(0, np.int64)
        return order[np.searchsorted(ordered, value, side="left") : np.searchsorted(ordered, value, side="right")]

    def _array(self, values: object) -> NDArray:
        """Return a column of the history as an array; it shares its memory."""
        if id(values) not in self._arrays:
            self._arrays[id(values)] = np.asarray(values)
        return self._arrays[id(values)]
