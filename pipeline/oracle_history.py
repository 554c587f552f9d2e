"""What happened, told again record by record: which records count, in which order, and what became known when.

The slow twin of admission, merge and label join: plain sets, dictionaries and comparisons, and none of their code.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from connectors.secrets import Tokeniser
from pipeline.arrivals import Arrival
from pipeline.oracle_inputs import LONG_AGO_MS, Floors, InputRows, Reader, Values
from pipeline.plan import StreamPlan
from pipeline.stages import FACTS, LINES, Stage, alone
from pipeline.stream import Stream

Int64s = NDArray[np.int64]
Float64s = NDArray[np.float64]
_PRUNE_AT = 100_000


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
        self.high_ms = LONG_AGO_MS
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


class History:
    """Everything that was applied, from the decoded records of all inputs, commit by commit.

    Memory: about 32 bytes an applied event and 8 for each field that features use, and for one distinct text about
    200; ids only within `lateness`, and with facts within their horizon.
    """

    def __init__(self, plan: StreamPlan | Stage, tokeniser: Tokeniser | None = None) -> None:
        self.stage = stage = plan if isinstance(plan, Stage) else alone(plan)
        self.plan = stage.plan
        self.texts = Values()
        self._reader = Reader(stage, self.texts, tokeniser)
        self._main = self.plan.stream.name
        self.applied = {
            name: Applied(numbers={each: array("d") for each in numbers}, values={each: array("q") for each in values})
            for name, (numbers, values) in self._reader.fields.items()
        }
        self.carried = {column: array("d") for column in stage.carried}
        judged = [each.stream for each in stage.inputs if each.kind == LINES and not each.label]
        self._judges = {each.name: Judge(each) for each in judged}
        self._floors = Floors(stage.partitions)
        self.facts = Facts(values={key: array("q") for key in stage.fact_keys})
        self._known: dict[Hashable, _Known] = {}
        self._derived = self.plan.facts.derived_from if self.plan.facts is not None else None
        self._untold: list[tuple[int, int, Hashable, int]] = []
        self._told, self._prune_at, self._floor_ms = 0, _PRUNE_AT, LONG_AGO_MS

    def add(self, chunks: Mapping[str, Arrival]) -> Int64s:
        """Take the next commit, and return the offsets of the events of the decided stream that were applied."""
        before = len(self.applied[self._main])
        inputs = [self._reader.read(each, chunks[each.topic]) for each in self.stage.inputs if each.topic in chunks]
        while heads := [each for each in inputs if each.next < len(each.times_ms)]:
            head = min(heads, key=lambda each: each.times_ms[each.next])  # of equal ones the first declared
            self._take(head, head.next)
            head.next += 1
        return np.array(self.applied[self._main].offsets[before:], np.int64)

    def _take(self, source: InputRows, row: int) -> None:
        """Take the next record in merged order."""
        name, time_ms = source.input.stream.name, source.times_ms[row]
        if source.input.kind == FACTS:
            self._learn(source, row)
            self._told += 1
            return
        if source.input.label:
            self._take_label(source, row)
            return
        if source.sources:
            self._floors.say(source.sources[row], source.floors_ms[row], source.is_idle[row])
            self._floor_ms = self._floors.floor_ms
            if source.markers[row]:
                return
        elif name in self._judges:
            append_ms = source.append_ms[row] if source.append_ms is not None else None
            origin = source.redriven_from[row] if source.redriven_from is not None else -1
            if not self._judges[name].applies(time_ms, source.ids[row], append_ms, origin):
                return
        while name == self._main and self._untold and self._untold[0][0] <= time_ms:  # labels of earlier events
            known_ms, _, labelled, of = heapq.heappop(self._untold)
            self._tell(labelled, known_ms, of)
            self._told += 1
        self._add(source, row)

    def _take_label(self, source: InputRows, row: int) -> None:
        label = source.labels[row]
        if label is None:
            return
        if source.input is self.stage.main:  # to be moved to another key
            self._add(source, row)
            return
        self._tell(source.ids[row], source.times_ms[row], label)
        self._told += 1

    def _add(self, source: InputRows, row: int) -> None:
        """Take an event that counts."""
        name, time_ms, id = source.input.stream.name, source.times_ms[row], source.ids[row]
        if self._main in self._judges:
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
        for column, carried in source.carried.items():
            self.carried[column].append(carried[row])
        if name == self._main and self.stage.joins and self.facts.values:
            self._meet(id, time_ms, len(rows) - 1)
            if self._derived is not None and (label := source.labels[row]) is not None:
                heapq.heappush(self._untold, (time_ms + self._derived[2], len(rows), id, label))
        self._told += 1

    def _learn(self, source: InputRows, row: int) -> None:
        """Take a fact that another stage tells."""
        facts, (units, weight, time_ms) = self.facts, source.facts[row]
        facts.times_ms.append(time_ms)
        facts.known_ms.append(source.times_ms[row])
        facts.units.append(units)
        facts.weights.append(weight)
        facts.told_at.append(self._told)
        for key, values in facts.values.items():
            values.append(source.values[key][row])

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
