"""From one partition to several: which keys an event visits in which order, and what moves between them.

On one partition an engine has everything at hand, and there is one stage. On several, a topic holds all events of a key
only in the partitioning by that key. So each key has a stage: events enter in the partition of their stream's key, get
what is computed by it, and move on, through an internal topic that is partitioned by the next key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from connectors.schema import Schema
from pipeline.plan import GroupPlan, StreamPlan, plan_stream
from pipeline.stream import Stream
from pipeline.windows import Derived

if TYPE_CHECKING:
    from connectors.formats import Decode
    from pipeline.app import App

LINES = "lines"  # records as producers wrote them: judged by the stage that reads them
CARRIED = "carried"  # events of the decided stream, judged, with the features of earlier stages
ROWS = "rows"  # events of another stream, or labels, judged
FACTS = "facts"  # what became known about events, by one of their keys


@dataclass(frozen=True)
class Input:
    """A topic that a stage reads.

    Attributes:
        topic: its name; of a stream, the stream's.
        kind: LINES, CARRIED, ROWS or FACTS.
        stream: whose events or labels these are.
        schema: the fields they have here.
        label: for labels, the field that says how it turned out; "" for events.
        decode: what decodes LINES; None for JSON.
    """

    topic: str
    kind: str
    stream: Stream
    schema: Schema
    label: str = ""
    decode: Decode | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Output:
    """A topic of rows that a stage writes to.

    Attributes:
        key: whose text chooses the partition.
        kind: CARRIED, ROWS or FACTS.
        fields: of the events that move on; of facts none.
        features: columns of the feature matrix that move on.
        to_entrance: the topic's reader takes a stream as its producers partitioned it: by the text of the key as it was
            sent, not of its token.
    """

    topic: str
    key: str
    kind: str
    fields: tuple[str, ...] = ()
    features: tuple[int, ...] = ()
    to_entrance: bool = False


@dataclass(frozen=True)
class Stage:
    """What one worker does on each partition: take inputs, compute what belongs to one key, pass on or decide.

    Attributes:
        group: the name under which its manifests and snapshots are kept.
        key: what its topics are partitioned by.
        plan: of its stream, with the groups that are computed here only.
        inputs: the decided stream first, then others in declared order, labels or facts last.
        outputs: where events and facts go.
        decides: whether tasks are decided here.
        joins: whether labels meet their events here.
        fact_keys: the keys of events that facts are told by, here or further on.
        carried: columns of the feature matrix that earlier stages computed.
        wanted: the features from expressions that are needed here, None for all.
        partitions: of all its topics.
    """

    group: str
    key: str
    plan: StreamPlan
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...] = ()
    decides: bool = True
    joins: bool = False
    fact_keys: tuple[str, ...] = ()
    carried: tuple[int, ...] = ()
    wanted: frozenset[str] | None = None
    partitions: int = 1

    @property
    def main(self) -> Input:
        """The input whose events are decided or passed on."""
        return self.inputs[0]

    @property
    def is_entrance(self) -> bool:
        """Whether events are judged here."""
        return self.main.kind == LINES


def alone(plan: StreamPlan, group: str = "") -> Stage:
    """Return the only stage of a stream on one partition: everything at once."""
    explicit = [plan.facts] if plan.facts is not None and plan.facts.derived_from is None else []
    inputs = [lines_of(each) for each in (plan.stream, *plan.others)]
    inputs += [lines_of(each, plan.fact_field) for each in explicit]
    keys = tuple(dict.fromkeys(each.key for each in plan.groups if each.kind == "facts"))
    return Stage(group, plan.stream.entry_key, plan, tuple(inputs), joins=plan.facts is not None, fact_keys=keys)


def stages_of(app: App, partitions: int = 1) -> list[Stage]:
    """Return the stages of an app, each before those that it feeds (facts about events flow back)."""
    if partitions == 1:
        return [alone(plan, f"{app.name}.{plan.stream.name}") for plan in app.plans.values()]
    return _Stages(app, partitions).all()


def decoding(stages: Iterable[Stage], decoders: Mapping[str, Decode]) -> list[Stage]:
    """Return stages that decode the records of each stream, by its name, as its messages are written."""
    return [
        replace(stage, inputs=tuple(
            replace(each, decode=decoders.get(each.stream.name)) if each.kind == LINES else each
            for each in stage.inputs
        )) for stage in stages
    ]  # fmt: skip


def internal_topics(stages: Iterable[Stage]) -> list[str]:
    """Return the topics between stages."""
    return list(dict.fromkeys(output.topic for stage in stages for output in stage.outputs))


def buried_by(stages: Iterable[Stage], group: str) -> set[str]:
    """Return the streams whose dead letters a stage writes: where several judge a stream, the first one does."""
    first: dict[str, str] = {}
    for stage in stages:
        for each in stage.inputs:
            if each.kind == LINES:
                first.setdefault(each.topic, stage.group)
    return {topic for topic, by in first.items() if by == group}


def lines_of(stream: Stream, label: str = "") -> Input:
    """Return a stream's own topic as an input."""
    return Input(stream.name, LINES, stream, stream.schema, label)


class _Stages:
    """Collects the stages of an app while going through its plans."""

    def __init__(self, app: App, partitions: int) -> None:
        self._app, self._partitions = app, partitions
        self._moved: dict[str, dict[str, Output]] = {}  # stream -> topic -> where its events must go
        self._moved_streams: dict[str, tuple[Stream, str]] = {}
        self._direct = self._read_directly()

    def all(self) -> list[Stage]:
        """Return them."""
        found = [stage for plan in self._app.plans.values() for stage in self._of_plan(plan)]
        return [*(self._moving(name) for name in self._moved), *found]

    def _read_directly(self) -> dict[str, tuple[str, str]]:
        """Return the other streams with one reader only, by decided stream and key: they can be judged there."""
        readers: dict[str, set[tuple[str, str]]] = {}
        for name, plan in self._app.plans.items():
            for group in plan.groups:
                if group.kind == "other":
                    readers.setdefault(group.source.name, set()).add((name, group.key))
        return {source: next(iter(each)) for source, each in readers.items() if len(each) == 1}

    def _of_plan(self, plan: StreamPlan) -> list[Stage]:
        chain = chain_of(plan)
        prefix = f"{self._app.name}.{plan.stream.name}"
        names = _names(prefix, [key for key, _ in chain])
        join = self._join(plan, prefix)
        made: list[int] = []
        stages = []
        for number, (key, groups) in enumerate(chain):
            is_last = number == len(chain) - 1
            carried = tuple(made)
            made += [column for group in groups for column in group.outputs]
            outputs = []
            if not is_last:
                fields = plan.stream.schema.names
                outputs.append(Output(names[number + 1], chain[number + 1][0], CARRIED, fields, tuple(made)))
            has_facts = any(group.kind == "facts" for group in groups)
            here = replace(plan, groups=tuple(groups), facts=plan.facts if _derived(plan) and has_facts else None)
            at_entrance = number == 0 and join is not None and join.at_entrance
            if number == 0 and join is not None:
                here = replace(here, facts=plan.facts) if at_entrance else here
                outputs += join.outputs if join.own is None else [join.own[0]]
            main = Input(names[number], CARRIED, plan.stream, plan.stream.schema) if number else lines_of(plan.stream)
            others = self._others(plan, key, groups, is_entrance=number == 0)
            facts = self._facts(plan, join, number, key, has_facts)
            keys = join.keys if join is not None and at_entrance else (key,) if has_facts else ()
            stages.append(Stage(
                names[number], key, here, (main, *others, *facts), tuple(outputs), is_last,
                at_entrance or (_derived(plan) and has_facts), keys, carried,
                None if is_last else wanted_for(plan, groups), self._partitions,
            ))  # fmt: skip
        if join is not None and join.own is not None:
            stages.insert(1, join.own[1])
        return stages

    def _others(self, plan: StreamPlan, key: str, groups: Sequence[GroupPlan], is_entrance: bool) -> list[Input]:
        """Return the other streams that a stage inserts: as they are, or moved to its key by a stage of their own."""
        found = []
        for source in dict.fromkeys(group.source for group in groups if group.kind == "other"):
            token = _is_sensitive(source, key) or _is_sensitive(plan.stream, key)
            here = self._direct.get(source.name) == (plan.stream.name, key)
            if here and source.entry_key == key and (is_entrance or not token):
                found.append(lines_of(source))
                continue
            topic = f"{self._app.name}.{source.name}.by-{key}" + ("-token" if token and not is_entrance else "")
            self._move(source, "", Output(topic, key, ROWS, source.schema.names, to_entrance=is_entrance))
            found.append(Input(topic, ROWS, source, source.schema))
        return found

    def _facts(self, plan: StreamPlan, join: _Join | None, number: int, key: str, has_facts: bool) -> list[Input]:
        """Return where a stage learns of facts: from labels themselves, or what was joined elsewhere."""
        if join is None or plan.facts is None:
            return []
        if number == 0 and join.at_entrance:
            return [join.labels]
        topic = _facts_topic(f"{self._app.name}.{plan.stream.name}", key)
        return [Input(topic, FACTS, plan.facts, plan.facts.schema)] if has_facts else []

    def _join(self, plan: StreamPlan, prefix: str) -> _Join | None:
        """Return how labels meet their events; None without labels, or if they stand in the events themselves."""
        labels = plan.facts
        if labels is None or _derived(plan):
            return None
        keys = tuple(dict.fromkeys(group.key for group in plan.groups if group.kind == "facts"))
        schema, entry = plan.stream.schema, plan.stream.entry_key
        co_partitioned = labels.entry_key == entry if labels.entry_key != labels.schema.id else entry == schema.id
        outputs = tuple(
            Output(_facts_topic(prefix, key), key, FACTS, to_entrance=key == entry)
            for key in keys if not (co_partitioned and key == entry)
        )  # fmt: skip
        if co_partitioned:
            return _Join(keys, outputs, lines_of(labels, plan.fact_field))
        name = f"{prefix}.join-{labels.name}"
        source = lines_of(labels, plan.fact_field)
        if labels.entry_key != labels.schema.id or _is_sensitive(labels, labels.schema.id):
            topic = f"{self._app.name}.{labels.name}.by-{labels.schema.id}"
            self._move(labels, plan.fact_field, Output(topic, labels.schema.id, ROWS, labels.schema.names))
            source = Input(topic, ROWS, labels, labels.schema, plan.fact_field)
        fields = tuple(dict.fromkeys((schema.id, schema.time, *keys)))
        main = Input(name, CARRIED, plan.stream, _some_fields(schema, fields))
        empty = replace(plan, groups=(), names=(), specs=(), nodes=(), levels=(), columns_of={})
        stage = Stage(
            name, schema.id, empty, (main, source), outputs, decides=False, joins=True, fact_keys=keys,
            partitions=self._partitions,
        )  # fmt: skip
        return _Join(keys, outputs, source, (Output(name, schema.id, CARRIED, fields), stage))

    def _move(self, stream: Stream, label: str, output: Output) -> None:
        self._moved.setdefault(stream.name, {})[output.topic] = output
        self._moved_streams[stream.name] = (stream, label)

    def _moving(self, name: str) -> Stage:
        """Return the stage that judges a stream and passes it on by other keys."""
        stream, label = self._moved_streams[name]
        group = f"{self._app.name}.{name}.by-key"
        return Stage(
            group, stream.entry_key, plan_stream(stream, []), (lines_of(stream, label),),
            tuple(self._moved[name].values()), decides=False, partitions=self._partitions,
        )  # fmt: skip


@dataclass(frozen=True)
class _Join:
    """How the labels of a plan meet their events.

    Attributes:
        keys: that facts are told by.
        outputs: where facts go.
        labels: where they come from.
        own: how events get to a stage of its own, by event id, and that stage; None if labels are partitioned like the
            events, and met at the entrance.
    """

    keys: tuple[str, ...]
    outputs: tuple[Output, ...]
    labels: Input
    own: tuple[Output, Stage] | None = None

    @property
    def at_entrance(self) -> bool:
        """Whether labels meet their events where these are judged."""
        return self.own is None


def chain_of(plan: StreamPlan) -> list[tuple[str, list[GroupPlan]]]:
    """Return the keys that an event visits, the stream's own first, with the groups computed at each.

    A group over features comes after the groups of these; a key comes again if that demands it.
    """
    waiting = list(plan.groups)
    needs = {id(group): _needs(plan, group) for group in waiting}
    done: set[int] = set()
    chain: list[tuple[str, list[GroupPlan]]] = []
    key = plan.stream.entry_key
    while True:
        here: list[GroupPlan] = []
        for group in waiting:  # by level, so a group comes after those of its key that it needs
            if group.key == key and needs[id(group)] <= done:
                here.append(group)
                done.add(id(group))
        waiting = [group for group in waiting if id(group) not in done]
        chain.append((key, here))
        if not waiting:
            return chain
        ready = dict.fromkeys(group.key for group in waiting if needs[id(group)] <= done)
        key = max(ready, key=lambda each: _at_once(each, waiting, needs, done))  # of equal ones the first


def _at_once(key: str, waiting: Sequence[GroupPlan], needs: dict[int, set[int]], done: set[int]) -> bool:
    """Whether everything by this key that is left can be computed now, so that the key need not come again."""
    mine = [group for group in waiting if group.key == key]
    return set().union(*(needs[id(group)] for group in mine)) <= done | {id(group) for group in mine}


def _needs(plan: StreamPlan, group: GroupPlan) -> set[int]:
    """Return the groups that compute what a group's inputs are made of."""
    made_by = {column: id(each) for each in plan.groups for column in each.outputs}
    columns = {name: column for column, name in enumerate(plan.names)}
    return {made_by[columns[name]] for name in wanted_for(plan, [group]) if columns[name] in made_by}


def wanted_for(plan: StreamPlan, groups: Sequence[GroupPlan]) -> frozenset[str]:
    """Return the features that the inputs of some groups are made of: windows, and expressions at any depth."""
    nodes = dict(zip(plan.names, plan.nodes, strict=True))
    found: set[str] = set()
    texts = [
        each.expression.names for group in groups if group.kind == "own" for each in group.inputs if each.expression
    ]
    open_names = [name for names in texts for name in names]
    while open_names:
        name = open_names.pop()
        if name not in nodes or name in found:
            continue
        found.add(name)
        node = nodes[name]
        if isinstance(node, Derived):
            open_names += plan.expressions[node.text].names
    return frozenset(found)


def _names(prefix: str, keys: Sequence[str]) -> list[str]:
    """Return the names of the stages: of the stream, then with the key, and its number if it comes again."""
    names, counts = [prefix], {keys[0]: 1}
    for key in keys[1:]:
        counts[key] = counts.get(key, 0) + 1
        names.append(f"{prefix}.{key}" + (f"-{counts[key]}" if counts[key] > 1 else ""))
    return names


def _facts_topic(prefix: str, key: str) -> str:
    return f"{prefix}.{key}-facts"


def _derived(plan: StreamPlan) -> bool:
    return plan.facts is not None and plan.facts.derived_from is not None


def _is_sensitive(stream: Stream, field: str) -> bool:
    return field in stream.schema.names and stream.schema.field(field).sensitive is not None


def _some_fields(schema: Schema, names: Sequence[str]) -> Schema:
    return Schema(tuple(each for each in schema.fields if each.name in names), schema.id, schema.time, schema.time_unit)
