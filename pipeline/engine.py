"""The engine: records in, exact features out. One pure function over a commit, for live loop, replay and workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.records import Chunk
from kernels.windows import INSERT, QUERY
from pipeline.admission import Admission
from pipeline.copies import EngineCopy, Stateful, restore_parts, whole_of
from pipeline.facts import FactJoin, Facts
from pipeline.feature_values import FeatureValues, input_matrix
from pipeline.groups import Group
from pipeline.inputs import DeadLetter, Judged, Ledger, check_known, judge, judge_labels
from pipeline.label_queue import LabelQueue
from pipeline.plan import GroupPlan, StreamPlan
from pipeline.row_columns import RowColumns
from pipeline.timeline import Timeline, merge

if TYPE_CHECKING:
    from connectors.secrets import Tokeniser  # it brings cryptography along, which a replay rarely needs

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]


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
    """

    rows: pa.RecordBatch
    offsets: Int64s
    matrix: Float64s
    columns: RowColumns
    dead: list[DeadLetter]
    ledgers: dict[str, Ledger]

    def __len__(self) -> int:
        return int(self.rows.num_rows)


class Engine:
    """All features of one stream, over one partition.

    The features are a function of the records in log order: not of how they are cut into commits.
    """

    def __init__(self, plan: StreamPlan, tokeniser: Tokeniser | None = None) -> None:
        self.plan, self._tokeniser = plan, tokeniser
        inputs = [plan.stream, *plan.others]
        self.admissions = {each.name: Admission(each.lateness_ms, each.future_tolerance_ms) for each in inputs}
        self.groups: list[Group] = []
        for group in plan.groups:
            assert group.kernel is not None
            self.groups.append(Group(group.kernel, group.meta_columns))
        self._fact_keys = list(dict.fromkeys(group.key for group in plan.groups if group.kind == "facts"))
        self.join = FactJoin(len(self._fact_keys), plan.horizon_ms) if plan.facts is not None else None
        derived = plan.facts.derived_from if plan.facts is not None else None
        self.labels = LabelQueue(derived[1], derived[2]) if derived is not None else None

    @property
    def inputs(self) -> list[str]:
        """Names of the streams that chunks may be of."""
        facts = [self.plan.facts.name] if self.plan.facts is not None and self.labels is None else []
        return [self.plan.stream.name, *(each.name for each in self.plan.others), *facts]

    def process(self, chunks: Mapping[str, Chunk]) -> Featured:
        """Apply one commit: at most one chunk of each input.

        Raises:
            ValueError: a chunk of another stream, or sensitive fields without a key.
        """
        check_known(chunks, set(self.inputs))
        plan = self.plan
        floor_before_ms = self._floor_ms()
        judged: dict[str, Judged] = {}
        for stream in [plan.stream, *plan.others]:
            if stream.name in chunks:
                admission = self.admissions[stream.name]
                judged[stream.name] = judge(chunks[stream.name], stream.schema, admission, self._tokeniser)
            elif stream is plan.stream:
                judged[stream.name] = self._nothing()
        main = judged[plan.stream.name]
        if plan.facts is not None and self.labels is not None:
            judged[plan.facts.name] = self.labels.take(main, main.columns)
        elif plan.facts is not None and plan.facts.name in chunks:
            labels = chunks[plan.facts.name]
            judged[plan.facts.name] = judge_labels(labels, plan.facts.schema, plan.fact_field, self._tokeniser)
        matrix = self._run_levels(main, judged, merge(list(judged.items()), floor_before_ms))
        return Featured(
            main.columns.rows, main.offsets, matrix, main.columns,
            [letter for each in judged.values() for letter in each.dead],
            {name: each.ledger for name, each in judged.items()},
        )  # fmt: skip

    def _nothing(self) -> Judged:
        schema = self.plan.stream.schema
        empty = pa.RecordBatch.from_arrays([pa.array([], t) for t in schema.arrow.types], schema=schema.arrow)
        none = np.zeros(0, np.int64)
        return Judged(
            none, none, none.astype(bool), RowColumns(empty, schema), none, none.astype(np.uint64), Ledger(), []
        )

    def _run_levels(self, main: Judged, judged: Mapping[str, Judged], timeline: Timeline) -> Float64s:
        plan = self.plan
        facts = self._join(judged, timeline) if self.join is not None else None
        if len(plan.groups) == 1 and len(plan.groups[0].outputs) == len(plan.names):  # one group gives every column
            values = FeatureValues(main.columns, plan, None)
            return self._run_group(plan.groups[0], self.groups[0], main, judged, timeline, facts, values)
        matrix = np.full((len(main.columns), len(plan.names)), np.nan)
        values = FeatureValues(main.columns, plan, matrix)
        for level in range(max(plan.levels, default=0) + 1):
            for group, state in zip(plan.groups, self.groups, strict=True):
                if group.level == level:
                    features = self._run_group(group, state, main, judged, timeline, facts, values)
                    matrix[:, group.outputs] = features
            values.fill(level)
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

    def _floor_ms(self) -> int:
        return self.admissions[self.plan.stream.name].floor_ms

    def _run_own(self, group: GroupPlan, state: Group, main: Judged, values: FeatureValues) -> Float64s:
        keys = main.columns.hashes(group.key)
        kinds = np.where(keys != 0, np.int8(INSERT | QUERY), np.int8(QUERY))
        floors = main.floors_ms if main.applied.all() else main.floors_ms[main.applied]
        times_ms = main.applied_times_ms
        times = np.stack([times_ms, times_ms, floors], axis=1)
        inputs = input_matrix(group, state.inputs, len(keys), values)
        return state.update(kinds, keys, times, inputs, self._floor_ms())

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
        return state.update(kinds, keys, times, inputs, self._floor_ms())[own]

    def _join(self, judged: Mapping[str, Judged], timeline: Timeline) -> Facts:
        """Join labels to events, in merged order."""
        assert self.plan.facts is not None and self.join is not None
        name, main = self.plan.facts.name, judged[self.plan.stream.name]
        count = len(timeline)
        is_label = np.zeros(count, np.int8)
        ids, facts = np.zeros(count, np.uint64), np.zeros((count, 2), np.int64)
        keys = np.zeros((count, len(self._fact_keys)), np.uint64)
        own, labels = timeline.rows_of(self.plan.stream.name), timeline.rows_of(name)
        keep = np.zeros(count, np.bool_)
        keep[own] = keep[labels] = True
        ids[own], facts[:, 0], is_label[labels] = main.ids, timeline.times_ms, 1
        for column, key in enumerate(self._fact_keys):
            keys[own, column] = main.columns.hashes(key)
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
        return state.update(kinds, keys, times, inputs, self._floor_ms())[ask_at]

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {f"admission.{name}": each for name, each in self.admissions.items()}
        for plan, group in zip(self.plan.groups, self.groups, strict=True):
            parts[f"{plan.kind}.{plan.name}"] = group
        if self.join is not None:
            parts["join"] = self.join
        if self.labels is not None:
            parts["labels"] = self.labels
        return parts

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
