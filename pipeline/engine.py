"""The engine: records in, exact features out. One pure function over a commit, for live loop, replay and workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.partitions import partitions_of
from connectors.records import Chunk
from kernels.floors import EVENT, UNKNOWN_MS
from kernels.windows import INSERT, QUERY
from pipeline.admission import Admission
from pipeline.arrivals import (
    Arrival,
    StageFloor,
    as_sent,
    judge_carried,
    judge_facts,
    judge_lines,
    nothing_of,
    only_applied,
)
from pipeline.carried import APPEND_MS, FACT_FIELDS, Carried
from pipeline.copies import EngineCopy, Stateful, restore_parts, whole_of
from pipeline.facts import FactJoin, Facts
from pipeline.feature_values import FeatureValues, input_matrix
from pipeline.fingerprint import fingerprint_of
from pipeline.groups import Group
from pipeline.inputs import DeadLetter, Judged, Ledger, check_known
from pipeline.label_queue import LabelQueue
from pipeline.plan import GroupPlan, StreamPlan
from pipeline.row_columns import RowColumns
from pipeline.stages import CARRIED, FACTS, LINES, Input, Stage, alone
from pipeline.timeline import Timeline, merge

if TYPE_CHECKING:
    from connectors.secrets import Tokeniser  # it brings cryptography along, which a replay rarely needs

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Told:
    """Facts that became known, for other stages.

    Attributes:
        fact: (facts, 4) the event's time, when it was known, what it adds to the sum, to the count.
        keys: (facts, keys) hashes of the event's keys, 0 for null.
        partitions: (facts, keys) where each belongs.
    """

    fact: Int64s
    keys: NDArray[np.uint64]
    partitions: Int64s


@dataclass(frozen=True)
class Featured:
    """What one commit gave.

    Attributes:
        rows: the applied events of the decided stream, tokenised, in log order.
        offsets: (events,) where they stand in the log.
        matrix: (events, features) float64, NaN is null.
        columns: their fields by name.
        dead: what was not applied, of all inputs.
        ledgers: per input.
        floors_ms: (events,) the oldest event time that was not late, after each.
        append_ms: (events,) when the log took them first; None if it has no clock.
        as_sent: the rows before tokenisation, where the next stage is chosen by a sensitive value; never written.
        told: facts for other stages.
    """

    rows: pa.RecordBatch
    offsets: Int64s
    matrix: Float64s
    columns: RowColumns
    dead: list[DeadLetter]
    ledgers: dict[str, Ledger]
    floors_ms: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    append_ms: Int64s | None = None
    as_sent: pa.RecordBatch | None = None
    told: Told | None = None

    def __len__(self) -> int:
        return int(self.rows.num_rows)


class Engine:
    """All features of one stream over one partition, or of one stage of it.

    The features are a function of the records in log order: not of how they are cut into commits.
    """

    def __init__(self, plan: StreamPlan | Stage, tokeniser: Tokeniser | None = None) -> None:
        self.stage = stage = plan if isinstance(plan, Stage) else alone(plan)
        self.plan, self._tokeniser = stage.plan, tokeniser
        self._fingerprint = fingerprint_of(stage.plan)
        judged_here = [each.stream for each in stage.inputs if each.kind == LINES and not each.label]
        self.admissions = {each.name: Admission(each.lateness_ms, each.future_tolerance_ms) for each in judged_here}
        self.floor = None if stage.is_entrance else StageFloor(stage.partitions)
        self.groups: list[Group] = []
        for group in self.plan.groups:
            assert group.kernel is not None
            self.groups.append(Group(group.kernel, group.meta_columns))
        self._fact_keys = list(stage.fact_keys)
        self._tells = any(output.kind == FACTS for output in stage.outputs)
        self._kept = len(self._fact_keys) * (2 if self._tells else 1)  # with each key, the partition it belongs to
        self.join = FactJoin(self._kept, self.plan.horizon_ms) if stage.joins else None
        derived = self.plan.facts.derived_from if self.plan.facts is not None else None
        self.labels = LabelQueue(derived[1], derived[2]) if derived is not None else None

    @property
    def inputs(self) -> list[str]:
        """Names of the topics that chunks may be of."""
        return [each.topic for each in self.stage.inputs]

    def process(self, chunks: Mapping[str, Arrival]) -> Featured:
        """Apply one commit: at most one chunk of each input.

        Raises:
            ValueError: a chunk of another stream, or sensitive fields without a key.
        """
        check_known(chunks, set(self.inputs))
        plan, stage = self.plan, self.stage
        floor_before_ms = self.floor_ms
        judged: dict[str, Judged] = {}
        for each in stage.inputs:
            if each.topic in chunks:
                judged[each.stream.name] = self._judge(each, chunks[each.topic])
            elif each is stage.main:
                judged[each.stream.name] = nothing_of(each.schema)
        main, arrival = judged[plan.stream.name], chunks.get(stage.main.topic)
        if plan.facts is not None and self.labels is not None:
            judged[plan.facts.name] = self.labels.take(main, main.columns)
        timeline = merge(list(judged.items()), floor_before_ms)
        facts = self._facts(judged, timeline, chunks)
        matrix = self._run_levels(main, judged, timeline, facts, arrival)
        columns = main.columns if not stage.main.label else only_applied(main)
        names = {each.stream.name: each.topic for each in stage.inputs}
        return Featured(
            columns.rows, main.offsets, matrix, columns,
            [letter for each in judged.values() for letter in each.dead],
            {names.get(name, name): each.ledger for name, each in judged.items()},
            main.floors_ms if main.applied.all() else main.floors_ms[main.applied], _append_ms(arrival, main),
            as_sent(arrival, main) if self._sends_raw and isinstance(arrival, Chunk) else None, self._told(facts),
        )  # fmt: skip

    @property
    def floor_ms(self) -> int:
        """The oldest event time of the decided stream that is not late."""
        if self.floor is not None:
            return self.floor.floor_ms
        name = self.plan.stream.name
        return self.admissions[name].floor_ms if name in self.admissions else int(UNKNOWN_MS)

    @property
    def _sends_raw(self) -> bool:
        return any(output.to_entrance and output.kind != FACTS for output in self.stage.outputs)

    def _judge(self, each: Input, arrival: Arrival) -> Judged:
        if isinstance(arrival, Chunk):
            return judge_lines(each, arrival, self.admissions.get(each.stream.name), self._tokeniser)
        if each.kind == FACTS:
            return judge_facts(each, arrival)
        return judge_carried(each, arrival, self.floor if each.kind == CARRIED else None)

    def _run_levels(
        self,
        main: Judged,
        judged: Mapping[str, Judged],
        timeline: Timeline,
        facts: Facts | None,
        arrival: Arrival | None,
    ) -> Float64s:
        plan = self.plan
        if len(plan.groups) == 1 and len(plan.groups[0].outputs) == len(plan.names):  # one group gives every column
            values = FeatureValues(main.columns, plan, None)
            return self._run_group(plan.groups[0], self.groups[0], main, judged, timeline, facts, values)
        matrix = np.full((len(main.offsets), len(plan.names)), np.nan)
        for column in self.stage.carried:
            if isinstance(arrival, Carried):
                matrix[:, column] = arrival.rows.column(plan.names[column]).to_numpy()
        values = FeatureValues(main.columns, plan, matrix)
        for level in range(max(plan.levels, default=-1) + 1):
            for group, state in zip(plan.groups, self.groups, strict=True):
                if group.level == level:
                    features = self._run_group(group, state, main, judged, timeline, facts, values)
                    matrix[:, group.outputs] = features
            values.fill(level, self.stage.wanted)
        return matrix

    def _run_group(
        self,
        group: GroupPlan,
        state: Group,
        main: Judged,
        judged: Mapping[str, Judged],
        timeline: Timeline,
        facts: Facts | None,
        values: FeatureValues,
    ) -> Float64s:
        if group.kind == "own":
            return self._run_own(group, state, main, values)
        if group.kind == "facts":
            assert facts is not None
            return self._run_facts(group, state, main, timeline, facts)
        return self._run_other(group, state, main, judged.get(group.source.name), timeline)

    def _run_own(self, group: GroupPlan, state: Group, main: Judged, values: FeatureValues) -> Float64s:
        keys = main.columns.hashes(group.key)
        kinds = np.where(keys != 0, np.int8(INSERT | QUERY), np.int8(QUERY))
        floors = main.floors_ms if main.applied.all() else main.floors_ms[main.applied]
        times_ms = main.applied_times_ms
        times = np.stack([times_ms, times_ms, floors], axis=1)
        inputs = input_matrix(group, state.inputs, len(keys), values)
        return state.update(kinds, keys, times, inputs, self.floor_ms)

    def _run_other(
        self, group: GroupPlan, state: Group, main: Judged, other: Judged | None, timeline: Timeline
    ) -> Float64s:
        """Insert another stream's events, and ask as of this stream's."""
        name = group.source.name
        keys = np.zeros(len(timeline), np.uint64)
        inputs = np.zeros((len(timeline), max(state.inputs, 1)), np.int64)
        own = timeline.rows_of(self.plan.stream.name)
        keys[own] = main.columns.hashes(group.key)
        kinds = np.zeros(len(timeline), np.int8)
        kinds[own] = QUERY
        if other is not None:
            rows = timeline.rows_of(name)
            keys[rows] = other.columns.hashes(group.key)
            kinds[rows] = np.where(keys[rows] != 0, np.int8(INSERT), np.int8(0))
            inputs[rows] = input_matrix(group, state.inputs, len(rows), FeatureValues(other.columns, None, None))
        times = np.stack([timeline.times_ms, timeline.times_ms, timeline.floors_ms], axis=1)
        return state.update(kinds, keys, times, inputs, self.floor_ms)[own]

    def _facts(self, judged: Mapping[str, Judged], timeline: Timeline, chunks: Mapping[str, Arrival]) -> Facts | None:
        """Return what becomes known at each place of the timeline: joined here, or told by another stage."""
        if self.join is not None:
            return self._join(judged, timeline, chunks.get(self.stage.main.topic))
        source = next((each for each in self.stage.inputs if each.kind == FACTS), None)
        if source is None:
            return None
        count = len(timeline)
        facts = Facts(np.zeros(count, np.int8), np.zeros((count, 4), np.int64), np.zeros((count, 1), np.uint64))
        carried = chunks.get(source.topic)
        if isinstance(carried, Carried):
            at = timeline.rows_of(source.stream.name)
            key, *fact = (carried.rows.column(name).to_numpy() for name in FACT_FIELDS)
            facts.made[at], facts.fact[at], facts.keys[at, 0] = 1, np.stack(fact, axis=1), key
        return facts

    def _told(self, facts: Facts | None) -> Told | None:
        """Return the facts that other stages wait for."""
        if facts is None or not self._tells:
            return None
        there, keys = facts.made != 0, len(self._fact_keys)
        return Told(facts.fact[there], facts.keys[there, :keys], facts.keys[there, keys:].astype(np.int64))

    def _partitions(self, main: Judged, arrival: Arrival | None) -> Iterator[Int64s | int]:
        """Yield, for each key that facts are told by, where each event's facts belong."""
        outputs = {output.key: output for output in self.stage.outputs if output.kind == FACTS}
        for key in self._fact_keys:
            if key not in outputs:
                yield 0  # told to nobody else
            elif outputs[key].to_entrance and isinstance(arrival, Carried):
                yield arrival.sources[arrival.kinds == EVENT]  # back to where the event entered
            else:
                yield partitions_of(main.columns.rows.column(key), self.stage.partitions)

    def _join(self, judged: Mapping[str, Judged], timeline: Timeline, arrival: Arrival | None) -> Facts:
        """Join labels to events, in merged order."""
        assert self.plan.facts is not None and self.join is not None
        name, main = self.plan.facts.name, judged[self.plan.stream.name]
        count = len(timeline)
        is_label = np.zeros(count, np.int8)
        ids, facts = np.zeros(count, np.uint64), np.zeros((count, 2), np.int64)
        keys = np.zeros((count, self._kept), np.uint64)
        own, labels = timeline.rows_of(self.plan.stream.name), timeline.rows_of(name)
        keep = np.zeros(count, np.bool_)
        keep[own] = keep[labels] = True
        ids[own], facts[:, 0], is_label[labels] = main.ids, timeline.times_ms, 1
        for column, key in enumerate(self._fact_keys):
            keys[own, column] = main.columns.hashes(key)
        if self._tells:
            for column, partitions in enumerate(self._partitions(main, arrival), start=len(self._fact_keys)):
                keys[own, column] = partitions
        if labels.size:
            ids[labels], facts[labels, 1] = judged[name].ids, np.asarray(judged[name].label_values)
        joined = self.join.join(is_label[keep], ids[keep], facts[keep], keys[keep], timeline.floors_ms[keep])
        if keep.all():
            return joined
        spread = Facts(np.zeros(count, np.int8), np.zeros((count, 4), np.int64), np.zeros_like(keys))
        spread.made[keep], spread.fact[keep], spread.keys[keep] = joined.made, joined.fact, joined.keys
        return spread

    def _run_facts(self, group: GroupPlan, state: Group, main: Judged, timeline: Timeline, facts: Facts) -> Float64s:
        """Insert what became known, and ask as of each event; an event asks before its own label can count."""
        own = timeline.rows_of(self.plan.stream.name)
        asks = np.zeros(len(timeline), np.bool_)
        asks[own] = True
        tells = facts.made != 0
        places = np.cumsum(asks.astype(np.int64) + tells)
        ask_at, tell_at = places[asks] - 1 - tells[asks], places[tells] - 1
        total = int(places[-1]) if places.size else 0
        kinds, keys = np.zeros(total, np.int8), np.zeros(total, np.uint64)
        times, inputs = np.zeros((total, 3), np.int64), np.zeros((total, max(state.inputs, 1)), np.int64)
        column = self._fact_keys.index(group.key)
        kinds[ask_at], keys[ask_at] = QUERY, main.columns.hashes(group.key)
        times[ask_at, 0] = times[ask_at, 1] = timeline.times_ms[asks]
        times[ask_at, 2] = timeline.floors_ms[asks]
        keys[tell_at] = facts.keys[tells, column]
        kinds[tell_at] = np.where(keys[tell_at] != 0, np.int8(INSERT), np.int8(0))
        times[tell_at, :2], times[tell_at, 2] = facts.fact[tells, :2], timeline.floors_ms[tells]
        if group.inputs:
            inputs[tell_at, :2] = facts.fact[tells, 2:]
        return state.update(kinds, keys, times, inputs, self.floor_ms)[ask_at]

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {f"admission.{name}": each for name, each in self.admissions.items()}
        for plan, group in zip(self.plan.groups, self.groups, strict=True):
            parts[f"{plan.kind}.{plan.name}"] = group
        if self.floor is not None:
            parts["floor"] = self.floor
        if self.join is not None:
            parts["join"] = self.join
        if self.labels is not None:
            parts["labels"] = self.labels
        return {f"{name}@{self._fingerprint}": part for name, part in parts.items()}

    def copy(self, whole: bool = True) -> EngineCopy:
        """Begin a copy of the state as of now, to be made while batches go on.

        Args:
            whole: all of it, not only what changed since the last copy that was stored.
        """
        return EngineCopy(self._parts(), whole)

    def save(self) -> dict[str, NDArray[np.generic]]:
        """Return the whole state as named arrays."""
        return whole_of(self.copy())

    def restore(self, *layers: Mapping[str, NDArray[np.generic]]) -> None:
        """Take the state from what `save` returned, or from copies, newest first, of which the last one is whole.

        Raises:
            ValueError: the arrays belong to another app.
        """
        restore_parts(self._parts(), layers)


def _append_ms(arrival: Arrival | None, main: Judged) -> Int64s | None:
    if isinstance(arrival, Carried):
        return arrival.rows.column(APPEND_MS).to_numpy()
    if arrival is None or arrival.append_ms is None:
        return None
    return arrival.append_ms[np.searchsorted(arrival.offsets, main.offsets)]
