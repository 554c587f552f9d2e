"""What happened, told again record by record: which records count, in which order, and what became known when.

The slow twin of admission, merge and label join: plain sets, dictionaries and comparisons, and none of their code.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.records import Chunk
from connectors.secrets import Tokeniser
from pipeline.inputs import tokenised
from pipeline.plan import StreamPlan
from pipeline.row_columns import code_of_text
from pipeline.stream import Stream
from pipeline.windows import Column, WindowFeature

Int64s = NDArray[np.int64]
Float64s = NDArray[np.float64]
_LONG_AGO_MS = -(2**62)
_PRUNE_AT = 100_000
COMPARED = ("distinct", "entropy", "seen", "top_share", "changed")  # of these, values are compared, not added up


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
class Applied:
    """The applied events of one stream in log order, one entry each.

    Attributes:
        times_ms: event times.
        floors_ms: after each event, the oldest time of the decided stream that was not late.
        told_at: places in the merged order of all inputs.
        offsets: where they stand in their input.
        numbers: fields that are added up or computed with, NaN for null; a text is its category.
        values: fields that are keys or compared, as numbers of `Values`.
    """

    times_ms: array[int] = field(default_factory=lambda: array("q"))
    floors_ms: array[int] = field(default_factory=lambda: array("q"))
    told_at: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    numbers: dict[str, array[float]] = field(default_factory=dict)
    values: dict[str, array[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.times_ms)


@dataclass
class Facts:
    """What became known about events: when the event was, when it was known, what it adds to the sum and the count."""

    times_ms: array[int] = field(default_factory=lambda: array("q"))
    known_ms: array[int] = field(default_factory=lambda: array("q"))
    units: array[int] = field(default_factory=lambda: array("q"))
    weights: array[int] = field(default_factory=lambda: array("q"))
    told_at: array[int] = field(default_factory=lambda: array("q"))
    values: dict[str, array[int]] = field(default_factory=dict)


class Judge:
    """Invalid ones aside: future, late, duplicate, in this order, by sets and comparisons."""

    def __init__(self, stream: Stream) -> None:
        self._lateness_ms, self._tolerance_ms = stream.lateness_ms, stream.future_tolerance_ms
        self.high_ms = _LONG_AGO_MS
        self._applied: dict[Hashable, int] = {}
        self._redriven: set[int] = set()
        self._prune_at = _PRUNE_AT

    def applies(self, time_ms: int, id: Hashable, append_ms: int | None, redriven_from: int) -> bool:
        """Judge the next record of the stream; `redriven_from` is below 0 for an ordinary one."""
        if append_ms is not None and time_ms > append_ms + self._tolerance_ms:
            return False
        oldest_ms = self.high_ms - self._lateness_ms
        if redriven_from < 0 and time_ms < oldest_ms:
            return False
        if id in self._applied and self._applied[id] >= oldest_ms:
            return False
        if redriven_from in self._redriven:
            return False
        self._applied[id] = max(time_ms, self._applied.get(id, time_ms))
        if redriven_from >= 0:
            self._redriven.add(redriven_from)
        self.high_ms = max(self.high_ms, time_ms)
        if len(self._applied) > self._prune_at:  # those too old to be duplicates ever again
            oldest_ms = self.high_ms - self._lateness_ms
            self._applied = {id: time_ms for id, time_ms in self._applied.items() if time_ms >= oldest_ms}
            self._prune_at = max(_PRUNE_AT, 2 * len(self._applied))
        return True

    @property
    def floor_ms(self) -> int:
        """The oldest time that is not late."""
        return self.high_ms - self._lateness_ms


@dataclass(slots=True)
class _Known:
    """What is known of an event id: its event's row, or only its label so far."""

    time_ms: int
    row: int | None
    label: int | None
    known_ms: int


@dataclass
class _Input:
    """The decoded rows of one input of a commit, as lists."""

    stream: Stream
    times_ms: list[int]
    ids: list[Hashable]
    offsets: list[int]
    append_ms: list[int] | None
    redriven_from: list[int] | None
    numbers: dict[str, list[float]]
    values: dict[str, list[int]]
    labels: list[int | None]
    next: int = 0


class History:
    """Everything that was applied, from the decoded records of all inputs, commit by commit.

    Memory: about 32 bytes an applied event and 8 for each field that features use, and for one distinct text about
    200; ids only within `lateness`, and with facts within their horizon.
    """

    def __init__(self, plan: StreamPlan, tokeniser: Tokeniser | None = None) -> None:
        self.plan, self._tokeniser = plan, tokeniser
        self.texts = Values()
        self._main = plan.stream.name
        self._fields = _fields_used(plan)
        self.applied = {
            name: Applied(numbers={each: array("d") for each in numbers}, values={each: array("q") for each in values})
            for name, (numbers, values) in self._fields.items()
        }
        self._judges = {each.name: Judge(each) for each in [plan.stream, *plan.others]}
        self.facts = Facts(values={group.key: array("q") for group in plan.groups if group.kind == "facts"})
        self._known: dict[Hashable, _Known] = {}
        self._derived = plan.facts.derived_from if plan.facts is not None else None
        self._untold: list[tuple[int, int, Hashable, int]] = []
        self._told, self._prune_at, self._floor_ms = 0, _PRUNE_AT, _LONG_AGO_MS

    def add(self, chunks: Mapping[str, Chunk]) -> Int64s:
        """Take the next commit, and return the offsets of the events of the decided stream that were applied."""
        plan, before = self.plan, len(self.applied[self._main])
        explicit = [plan.facts] if plan.facts is not None and self._derived is None else []
        streams = [each for each in [plan.stream, *plan.others, *explicit] if each.name in chunks]
        inputs = [self._read(each, chunks[each.name]) for each in streams]
        while heads := [each for each in inputs if each.next < len(each.times_ms)]:
            head = min(heads, key=lambda each: each.times_ms[each.next])  # of equal ones the first declared
            self._take(head, head.next)
            head.next += 1
        return np.array(self.applied[self._main].offsets[before:], np.int64)

    def _take(self, source: _Input, row: int) -> None:
        """Take the next record in merged order."""
        name, time_ms, id = source.stream.name, source.times_ms[row], source.ids[row]
        if name not in self._judges:
            label = source.labels[row]
            if label is not None:
                self._tell(id, time_ms, label)
                self._told += 1
            return
        append_ms = source.append_ms[row] if source.append_ms is not None else None
        origin = source.redriven_from[row] if source.redriven_from is not None else -1
        if not self._judges[name].applies(time_ms, id, append_ms, origin):
            return
        while name == self._main and self._untold and self._untold[0][0] <= time_ms:  # labels of earlier events
            known_ms, _, labelled, of = heapq.heappop(self._untold)
            self._tell(labelled, known_ms, of)
            self._told += 1
        self._floor_ms = self._judges[self._main].floor_ms
        rows = self.applied[name]
        rows.times_ms.append(time_ms)
        rows.floors_ms.append(self._floor_ms)
        rows.told_at.append(self._told)
        rows.offsets.append(source.offsets[row])
        for field_name, numbers in source.numbers.items():
            rows.numbers[field_name].append(numbers[row])
        for field_name, values in source.values.items():
            rows.values[field_name].append(values[row])
        if name == self._main and self.facts.values:
            self._meet(id, time_ms, len(rows) - 1)
            if self._derived is not None and (label := source.labels[row]) is not None:
                heapq.heappush(self._untold, (time_ms + self._derived[2], len(rows), id, label))
        self._told += 1

    def _forget(self, id: Hashable) -> _Known | None:
        """Return what is known of an id, unless it is from too long ago to count."""
        oldest_ms = self._floor_ms - self.plan.horizon_ms
        if len(self._known) > self._prune_at:
            self._known = {id: each for id, each in self._known.items() if each.time_ms > oldest_ms}
            self._prune_at = max(_PRUNE_AT, 2 * len(self._known))
        known = self._known.get(id)
        return known if known is not None and known.time_ms > oldest_ms else None

    def _meet(self, id: Hashable, time_ms: int, row: int) -> None:
        """An event: the first of its id stands, and a label that waited for it counts from now."""
        known = self._forget(id)
        if known is None:
            self._known[id] = _Known(time_ms, row, None, 0)
        elif known.row is None:
            assert known.label is not None
            known.time_ms, known.row = time_ms, row
            self._fact(known, known.label, 1)

    def _tell(self, id: Hashable, known_ms: int, label: int) -> None:
        """A label: a later one of the same event corrects it, and is known no sooner than what it corrects."""
        if not self.facts.values:
            return
        known = self._forget(id)
        if known is None:
            self._known[id] = _Known(known_ms, None, label, known_ms)
            return
        was, known.label = known.label, label
        if was is None:
            known.known_ms = known_ms
            self._fact(known, label, 1)
        elif was != label:
            known.known_ms = max(known.known_ms, known_ms)
            if known.row is not None:
                self._fact(known, label - was, 0)

    def _fact(self, known: _Known, units: int, weight: int) -> None:
        assert known.row is not None
        facts = self.facts
        facts.times_ms.append(known.time_ms)
        facts.known_ms.append(known.known_ms)
        facts.units.append(units)
        facts.weights.append(weight)
        facts.told_at.append(self._told)
        for key, values in facts.values.items():
            values.append(self.applied[self._main].values[key][known.row])

    def _read(self, stream: Stream, chunk: Chunk) -> _Input:
        """Turn decoded rows into lists."""
        rows, index = tokenised(chunk.decoded.rows, stream.schema, self._tokeniser), chunk.decoded.index
        numbers, compared = self._fields.get(stream.name, (set(), set()))
        label = self._derived[1] if self._derived is not None else self.plan.fact_field
        labelled = label in rows.schema.names and (stream is self.plan.facts or stream.name == self._main)

        def column(name: str) -> list:  # type: ignore[type-arg]
            return rows.column(name).to_pylist()

        def at_rows(values: Int64s | None) -> list[int] | None:
            return values[index].tolist() if values is not None else None

        return _Input(
            stream, column(stream.schema.time), column(stream.schema.id), chunk.offsets[index].tolist(),
            at_rows(chunk.append_ms), at_rows(chunk.redriven_from),
            {name: [self._as_number(each) for each in column(name)] for name in numbers},
            {name: self._numbers_of(rows.column(name)) for name in compared},
            [None if each is None else int(each) for each in column(label)] if labelled else [],
        )  # fmt: skip

    def _numbers_of(self, column: pa.Array) -> list[int]:
        """Number values, each different one once."""
        encoded = column.dictionary_encode()
        numbers = [self.texts.number(each) for each in encoded.dictionary.to_pylist()]
        return [-1 if place is None else numbers[place] for place in encoded.indices.to_pylist()]

    def _as_number(self, value: object) -> float:
        if isinstance(value, str):
            return self.texts.categories[self.texts.number(value)]
        return float("nan") if value is None else float(value)  # type: ignore[arg-type]


def _fields_used(plan: StreamPlan) -> dict[str, tuple[set[str], set[str]]]:
    """Name the fields of each stream that are computed with, and those that are keys or compared."""
    used: dict[str, tuple[set[str], set[str]]] = {each.name: (set(), set()) for each in [plan.stream, *plan.others]}
    computed, _ = used[plan.stream.name]
    for expression in plan.expressions.values():
        computed.update(name for name in expression.names if name in plan.stream.schema.names)
    for node in plan.nodes:
        if isinstance(node, Column):
            computed.add(node.name)
        elif isinstance(node, WindowFeature):
            used[plan.stream.name][1].add(node.key)
            if node.facts is None:
                used[node.stream.name][1].add(node.key)
                if node.input is not None and node.input in node.stream.schema.names:
                    compared = node.operation in COMPARED or node.stream.schema.field(node.input).type == "string"
                    used[node.stream.name][1 if compared else 0].add(node.input)
    return used
