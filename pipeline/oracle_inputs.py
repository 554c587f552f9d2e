"""What the oracle reads: the rows of a commit's inputs as plain lists, values as numbers that are equal if they are."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.columns import hash_column
from connectors.secrets import Tokeniser
from kernels.floors import EVENT, IDLE
from pipeline.arrivals import Arrival
from pipeline.carried import FACT_FIELDS, Carried
from pipeline.inputs import tokenised
from pipeline.plan import StreamPlan
from pipeline.row_columns import code_of_text
from pipeline.stages import CARRIED, FACTS, Input, Stage
from pipeline.windows import Column, WindowFeature

Int64s = NDArray[np.int64]
COMPARED = ("distinct", "entropy", "seen", "top_share", "changed")  # of these, values are compared, not added up
LONG_AGO_MS = -(2**62)


class Values:
    """Numbers for values: equal values have equal numbers, in all fields of all streams; null is -1."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self.categories: list[float] = []

    def number(self, value: Hashable) -> int:
        """Return the number of a value."""
        if value is None:
            return -1
        found = self._numbers.setdefault(value, len(self._numbers))
        if found == len(self.categories):
            self.categories.append(code_of_text(value) if isinstance(value, str) else float("nan"))
        return found


@dataclass
class InputRows:
    """The decoded rows of one input of a commit, as lists, one entry each.

    Attributes:
        input: of the stage.
        append_ms, redriven_from: None where the input has none.
        numbers, values: fields that are computed with, and those that are keys or compared.
        labels: what labels say, or events that hold their own.
        markers: for events from another stage: whether the row is a marker; then `sources`, `is_idle` and `floors_ms`
            say who is how far.
        facts: for facts: what each adds to the sum and to the count, and the time of its event.
        carried: features that earlier stages computed, by column.
    """

    input: Input
    times_ms: list[int]
    offsets: list[int]
    ids: list[Hashable] = field(default_factory=list)
    append_ms: list[int] | None = None
    redriven_from: list[int] | None = None
    numbers: dict[str, list[float]] = field(default_factory=dict)
    values: dict[str, list[int]] = field(default_factory=dict)
    labels: list[int | None] = field(default_factory=list)
    markers: list[bool] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    is_idle: list[bool] = field(default_factory=list)
    floors_ms: list[int] = field(default_factory=list)
    facts: list[tuple[int, int, int]] = field(default_factory=list)
    carried: dict[int, list[float]] = field(default_factory=dict)
    next: int = 0


class Floors:
    """How far the sources of a stage are together: the smallest of what those say that are not idle."""

    def __init__(self, sources: int) -> None:
        self._said_ms = dict.fromkeys(range(sources), LONG_AGO_MS)
        self._idle: set[int] = set()
        self.floor_ms = LONG_AGO_MS

    def say(self, source: int, floor_ms: int, is_idle: bool) -> None:
        """Take what a source says."""
        self._said_ms[source] = max(self._said_ms[source], floor_ms)
        self._idle = self._idle | {source} if is_idle else self._idle - {source}
        counted = [said for each, said in self._said_ms.items() if each not in self._idle]
        self.floor_ms = max(self.floor_ms, min(counted) if counted else max(self._said_ms.values()))


class Reader:
    """Turns the chunks of a stage into lists."""

    def __init__(self, stage: Stage, texts: Values, tokeniser: Tokeniser | None) -> None:
        self._stage, self._texts, self._tokeniser = stage, texts, tokeniser
        self.fields = fields_used(stage)
        facts = stage.plan.facts
        self._own_label = facts.derived_from[1] if facts is not None and facts.derived_from is not None else ""

    def read(self, each: Input, arrival: Arrival) -> InputRows:
        """Return the rows of a chunk."""
        if isinstance(arrival, Carried):
            return self._facts(each, arrival) if each.kind == FACTS else self._carried(each, arrival)
        rows, index = tokenised(arrival.decoded.rows, each.schema, self._tokeniser), arrival.decoded.index
        found = self._columns(each, rows, arrival.offsets[index].tolist())
        found.append_ms = arrival.append_ms[index].tolist() if arrival.append_ms is not None else None
        found.redriven_from = arrival.redriven_from[index].tolist() if arrival.redriven_from is not None else None
        return found

    def _columns(self, each: Input, rows: pa.RecordBatch, offsets: list[int]) -> InputRows:
        numbers, compared = self.fields.get(each.stream.name, (set(), set()))
        label = each.label or (self._own_label if each is self._stage.main else "")

        def column(name: str) -> list:
            return rows.column(name).to_pylist()

        return InputRows(
            each, column(each.schema.time), offsets, column(each.schema.id),
            numbers={name: [self._as_number(value) for value in column(name)] for name in numbers},
            values={name: self._identities(name, rows) for name in compared},
            labels=[_label(value) for value in column(label)] if label else [],
        )  # fmt: skip

    def _carried(self, each: Input, arrival: Carried) -> InputRows:
        """Return rows from another stage, markers among them: those have no fields."""
        found = self._columns(each, arrival.rows, [])
        at = [int(place) for place in np.flatnonzero(arrival.kinds == EVENT)]
        count = len(arrival)
        found.offsets = arrival.offsets.tolist()
        found.ids = _spread(found.ids, at, count, None)
        found.numbers = {name: _spread(values, at, count, float("nan")) for name, values in found.numbers.items()}
        found.values = {name: _spread(values, at, count, -1) for name, values in found.values.items()}
        found.labels = _spread(found.labels, at, count, None) if found.labels else []
        found.times_ms = _spread(found.times_ms, at, count, LONG_AGO_MS)  # a marker waits for nobody
        if each.kind != CARRIED:
            return found
        found.markers = (arrival.kinds != EVENT).tolist()
        found.is_idle = (arrival.kinds == IDLE).tolist()
        found.sources, found.floors_ms = arrival.sources.tolist(), arrival.floors_ms.tolist()
        for column in self._stage.carried if each is self._stage.main else ():
            values = arrival.rows.column(self._stage.plan.names[column]).to_numpy().tolist()
            found.carried[column] = _spread(values, at, count, float("nan"))
        return found

    def _facts(self, each: Input, arrival: Carried) -> InputRows:
        key, time_ms, known_ms, value, weight = (arrival.rows.column(name).to_pylist() for name in FACT_FIELDS)
        found = InputRows(
            each, known_ms, arrival.offsets.tolist(), facts=list(zip(value, weight, time_ms, strict=True))
        )
        found.values[self._stage.fact_keys[0]] = [each & (2**63 - 1) for each in key]
        return found

    def _identities(self, name: str, rows: pa.RecordBatch) -> list[int]:
        return key_hashes(rows.column(name[1:])) if name.startswith("#") else self._numbers_of(rows.column(name))

    def _numbers_of(self, column: pa.Array) -> list[int]:
        """Number values, each different one once."""
        encoded = column.dictionary_encode()
        numbers = [self._texts.number(each) for each in encoded.dictionary.to_pylist()]
        return [-1 if place is None else numbers[place] for place in encoded.indices.to_pylist()]

    def _as_number(self, value: object) -> float:
        if isinstance(value, str):
            return self._texts.categories[self._texts.number(value)]
        return float("nan") if value is None else float(value)  # type: ignore[arg-type]  # decoded: a number


def key_hashes(column: pa.Array) -> list[int]:
    """Return the hashes of keys as whole numbers, -1 for null: facts from another stage know keys by these only."""
    return [-1 if each == 0 else each & (2**63 - 1) for each in hash_column(column).tolist()]


def fact_key(stage: Stage, key: str) -> str:
    """Return the column of values by which facts are found."""
    return f"#{key}" if any(each.kind == FACTS for each in stage.inputs) else key


def computed_here(stage: Stage) -> list[str]:
    """Return the features that a stage computes: its windows, and where it decides all that are no windows."""
    plan = stage.plan
    columns = {column for group in plan.groups for column in group.outputs}
    if stage.decides:
        columns |= {n for n, node in enumerate(plan.nodes) if not isinstance(node, WindowFeature)}
    return [plan.names[column] for column in sorted(columns)]


def fields_used(stage: Stage) -> dict[str, tuple[set[str], set[str]]]:
    """Name the fields of each stream that are computed with, and those that are keys or compared.

    A key that facts from another stage are found by is among the latter once more, with a # before it.
    """
    plan, main = stage.plan, stage.main
    used: dict[str, tuple[set[str], set[str]]] = {each.name: (set(), set()) for each in [plan.stream, *plan.others]}
    computed, compared = used[plan.stream.name]
    for expression in plan.expressions.values():
        computed.update(name for name in expression.names if name in main.schema.names)
    compared.update(fact_key(stage, key) for key in stage.fact_keys)
    for node in _nodes(plan, stage):
        if isinstance(node, Column):
            computed.add(node.name)
        elif isinstance(node, WindowFeature):
            compared.add(node.key)
            if node.facts is None:
                used[node.stream.name][1].add(node.key)
                if node.input is not None and node.input in node.stream.schema.names:
                    kept = node.operation in COMPARED or node.stream.schema.field(node.input).type == "string"
                    used[node.stream.name][1 if kept else 0].add(node.input)
    return used


def _nodes(plan: StreamPlan, stage: Stage) -> list[object]:
    here = set(computed_here(stage))
    return [node for name, node in zip(plan.names, plan.nodes, strict=True) if name in here]


def _label(value: object) -> int | None:
    """Return what a label says as a number; a class, which no feature is made of, only says that it is there."""
    if value is None:
        return None
    return int(value) if isinstance(value, int) else 1


def _spread(values: list, at: list[int], count: int, missing: object) -> list:
    """Put values of events where these stand among all rows."""
    if len(at) == count:
        return values
    spread = [missing] * count
    for place, value in zip(at, values, strict=True):
        spread[place] = value
    return spread
