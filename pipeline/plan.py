"""From declarations to what the kernels run: which groups of windows, in which order, filled from which columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kernels import window_features as wf
from kernels import window_state as ws
from models.features import FeatureSpec
from pipeline.errors import DeclarationError, nearest
from pipeline.expressions import Expression, parse
from pipeline.stream import Stream
from pipeline.windows import Column, Derived, WindowFeature

if TYPE_CHECKING:
    from pipeline.app import AnyTask

ROWS_PER_KEY_DEFAULT = 16_384
ROWS_PER_KEY_MAX = 1 << 16  # so many values of the largest magnitude still add up within 63 bits
EXPRESSION_DECIMALS = 6
_OPERATIONS = {
    "sum": wf.SUM, "mean": wf.MEAN, "rate": wf.MEAN, "std": wf.STD, "zscore": wf.ZSCORE, "max": wf.MAX, "min": wf.MIN,
    "distinct": wf.DISTINCT_OF, "entropy": wf.ENTROPY, "seen": wf.SEEN, "top_share": wf.TOP_SHARE, "last": wf.LAST,
    "quantile": wf.QUANTILE, "ewm": wf.EWM, "changed": wf.CHANGED, "lag": wf.LAG, "lag_seconds": wf.LAG_SECONDS,
    "seconds_since_last": wf.SINCE_LAST, "seconds_since_first": wf.SINCE_FIRST,
}  # fmt: skip
_NUMBERS_ONLY = ("sum", "mean", "rate", "std", "zscore", "max", "min", "last", "quantile", "ewm")
_VALUES_ONLY = ("distinct", "entropy", "seen", "top_share", "changed")
_COUNTED = ("distinct", "entropy", "seen", "top_share")


@dataclass(frozen=True)
class Input:
    """One column of values that windows keep.

    Attributes:
        name: the field, or the text of the expression.
        expression: None for a field.
        hashed: kept as a hash, to compare and count; else as an integer of 10**-decimals.
        weighted: may be null, so a weight stands beside it.
    """

    name: str
    expression: Expression | None
    hashed: bool
    weighted: bool
    decimals: int


@dataclass
class GroupPlan:
    """The windows over one stream by one key, at one level.

    Attributes:
        kind: "own" (the decided stream), "facts" (labels joined by event id) or "other" (another stream with the key).
        source: the stream whose events are inserted.
        level: features of lower levels may be inputs.
        outputs: for each feature of the group, its column in the feature matrix.
    """

    kind: str
    source: Stream
    key: str
    level: int
    inputs: list[Input] = field(default_factory=list)
    windows: list[tuple[int, int]] = field(default_factory=list)
    members: list[tuple[WindowFeature, int, int]] = field(default_factory=list)  # feature, column, window
    outputs: list[int] = field(default_factory=list)
    kernel: ws.Plan | None = None
    meta_columns: int = 0

    @property
    def name(self) -> str:
        """Name for messages, metrics and snapshots."""
        return f"{self.source.name}.{self.key}.{self.level}"

    @property
    def retention_ms(self) -> int:
        """How far behind the oldest event that is not late a window can still look."""
        return max(span + delay for span, delay in self.windows)


@dataclass(frozen=True)
class StreamPlan:
    """Everything computed for each event of one stream, for all tasks on it.

    Attributes:
        names: columns of the feature matrix.
        specs: what each column is.
        nodes: what computes it.
        order: the derived features, by level.
        groups: by level.
        facts, fact_field: the stream of labels whose facts are joined, and the field that says how it turned out.
        horizon_ms: how long after its event a label still counts.
        rows_per_key: how many events of a key are kept, the newest in (time, order of arrival).
    """

    stream: Stream
    names: tuple[str, ...]
    specs: tuple[FeatureSpec, ...]
    nodes: tuple[Column | Derived | WindowFeature, ...]
    levels: tuple[int, ...]
    expressions: dict[str, Expression]
    groups: tuple[GroupPlan, ...]
    columns_of: dict[str, tuple[int, ...]]
    facts: Stream | None
    fact_field: str
    horizon_ms: int
    rows_per_key: int = ROWS_PER_KEY_DEFAULT

    @property
    def others(self) -> list[Stream]:
        """The other streams with the key, in declared order."""
        return list(dict.fromkeys(group.source for group in self.groups if group.kind == "other"))


def plan_stream(stream: Stream, tasks: Sequence[AnyTask], rows_per_key: int = ROWS_PER_KEY_DEFAULT) -> StreamPlan:
    """Plan all features of the tasks on a stream; equal ones are computed once.

    `rows_per_key` is the cap of a hot key; it is part of what the features are.

    Raises:
        DeclarationError: a feature refers to what is not there, to itself, or to the wrong type.
    """
    if not 1 <= rows_per_key <= ROWS_PER_KEY_MAX:
        raise DeclarationError(f"events_per_key is {rows_per_key}; choose between 1 and {ROWS_PER_KEY_MAX}")
    nodes: dict[str, Column | Derived | WindowFeature] = {}
    columns_of: dict[str, tuple[int, ...]] = {}
    for task in tasks:
        for name, feature in task.features.items():
            node = Derived(feature, task.place) if isinstance(feature, str) else feature
            if nodes.setdefault(name, node) != node:
                problem = f"feature {name!r} means different things in two tasks on {stream.name!r}; rename one"
                raise DeclarationError(problem, task.place)
        names = list(nodes)
        columns_of[task.name] = tuple(names.index(name) for name in task.features)
    labels = {task.label: task.label_types for task in tasks if task.label is not None}
    builder = _Builder(stream, nodes, labels, max((task.label_wait_ms for task in tasks), default=0))
    for task in tasks:
        for rule in task.rules:
            builder.check_names(rule.when, f"rule {rule.name!r}", rule.place)
    return builder.build(columns_of, rows_per_key)


class _Builder:
    """Collects groups while going through the features once."""

    def __init__(
        self,
        stream: Stream,
        nodes: dict[str, Column | Derived | WindowFeature],
        labels: dict[Column, tuple[str, ...]],
        label_wait_ms: int,
    ) -> None:
        self.stream, self.nodes, self.labels, self.label_wait_ms = stream, nodes, labels, label_wait_ms
        self.expressions: dict[str, Expression] = {}
        self.groups: dict[tuple[str, str, str, int], GroupPlan] = {}
        self.levels: dict[str, int] = {}
        self.facts: list[Stream] = list(dict.fromkeys(label.stream for label in labels))

    def build(self, columns_of: dict[str, tuple[int, ...]], rows_per_key: int) -> StreamPlan:
        """Return the finished plan."""
        for index, (name, node) in enumerate(self.nodes.items()):
            self.level_of(name, ())
            if isinstance(node, WindowFeature):
                self._add_window_feature(index, name, node)
        groups = sorted(self.groups.values(), key=lambda group: group.level)
        for group in groups:
            _finish(group, rows_per_key)
        if len(self.facts) > 1:
            names = ", ".join(each.name for each in self.facts)
            raise DeclarationError(f"stream {self.stream.name!r} has labels from {names}; use one", self.stream.place)
        horizon = max((group.retention_ms for group in groups if group.kind == "facts"), default=0)
        return StreamPlan(
            self.stream, tuple(self.nodes), tuple(self._spec(name) for name in self.nodes), tuple(self.nodes.values()),
            tuple(self.levels[name] for name in self.nodes), self.expressions, tuple(groups), columns_of,
            self.facts[0] if self.facts else None, self._fact_field(groups), max(horizon, self.label_wait_ms),
            rows_per_key,
        )  # fmt: skip

    def check_names(self, expression: Expression, what: str, place: str) -> None:
        """Refuse names that are neither fields nor features."""
        known = {*self.stream.schema.names, *self.nodes}
        for name in expression.names:
            if name not in known:
                problem = f"{what} uses {name!r}, neither a field nor a feature; {nearest(name, known)}"
                raise DeclarationError(problem, place)

    def level_of(self, name: str, above: tuple[str, ...]) -> int:
        """Return after how many rounds of windows a field or feature is known."""
        if name in self.levels or name not in self.nodes:
            return self.levels.get(name, 0)
        node = self.nodes[name]
        place = getattr(node, "place", "")
        if name in above:
            circle = " -> ".join((*above[above.index(name) :], name))
            raise DeclarationError(f"feature {name!r} depends on itself: {circle}", place)
        level = 0
        if isinstance(node, Derived):
            expression = self._expression(node.text, f"feature {name!r}", place)
            level = max((self.level_of(each, (*above, name)) for each in expression.names if each != name), default=0)
            if name in expression.names and name not in self.stream.schema.names:
                raise DeclarationError(f"feature {name!r} depends on itself", place)
        elif self._is_over_expression(node):
            assert isinstance(node, WindowFeature) and node.input is not None
            expression = self._expression(node.input, f"feature {name!r}", place)
            uses = [each for each in expression.names if each in self.nodes]
            level = max((1 + self.level_of(each, (*above, name)) for each in uses), default=0)
        self.levels[name] = level
        return level

    def _is_over_expression(self, node: object) -> bool:
        if not isinstance(node, WindowFeature) or node.input is None or node.facts is not None:
            return False
        return node.stream is self.stream and node.input not in self.stream.schema.names

    def _expression(self, text: str, what: str, place: str) -> Expression:
        if text not in self.expressions:
            try:
                self.expressions[text] = parse(text, what)
            except DeclarationError as error:
                raise DeclarationError(str(error).split(": ", 1)[-1], place) from None
        self.check_names(self.expressions[text], what, place)
        return self.expressions[text]

    def _add_window_feature(self, index: int, name: str, node: WindowFeature) -> None:
        kind = "facts" if node.facts is not None else "own" if node.stream is self.stream else "other"
        source = node.facts if node.facts is not None else node.stream
        if kind == "facts":
            if node.stream is not self.stream:
                problem = f"feature {name!r}: facts are joined to {self.stream.name!r}, not to {node.stream.name!r}"
                raise DeclarationError(problem, node.place)
            self.facts = list(dict.fromkeys([*self.facts, source]))
        if kind == "other" and node.key not in self.stream.schema.names:
            problem = f"feature {name!r} is by {node.key!r}, which {self.stream.name!r} does not have"
            raise DeclarationError(problem, node.place)
        if kind == "other" and node.operation in ("zscore", "seen", "changed"):
            problem = f"feature {name!r}: {node.operation} needs a value of the event itself; it is on another stream"
            raise DeclarationError(problem, node.place)
        level = self.levels[name] if kind == "own" else 0
        group = self.groups.setdefault((kind, source.name, node.key, level), GroupPlan(kind, source, node.key, level))
        window = (node.span_ms, node.delay_ms)
        if window not in group.windows:
            group.windows.append(window)
        column = self._add_input(group, name, node, source)
        group.members.append((node, column, group.windows.index(window)))
        group.outputs.append(index)

    def _add_input(self, group: GroupPlan, name: str, node: WindowFeature, source: Stream) -> int:
        if node.input is None:
            return 0
        declared = next((each for each in source.schema.fields if each.name == node.input), None)
        if declared is None and source is not self.stream:
            problem = f"feature {name!r}: {source.name!r} has no field {node.input!r}"
            raise DeclarationError(f"{problem}; {nearest(node.input, source.schema.names)}", node.place)
        if declared is not None and declared.content is not None:
            problem = f"{node.operation} of {node.input!r}, which is for a network that reads it; windows take no text"
            raise DeclarationError(f"feature {name!r}: {problem}", node.place)
        hashed = node.operation in _VALUES_ONLY or (
            declared is not None and declared.type == "string" and node.operation in ("lag", "count")
        )
        if declared is not None and declared.type == "string" and node.operation in _NUMBERS_ONLY:
            wrong = f"{node.operation} of {node.input!r}, a text; ask for distinct, entropy, seen, changed or top_share"
            raise DeclarationError(f"feature {name!r}: {wrong}", node.place)
        if declared is not None and declared.type == "string" and node.operation == "count" and declared.optional:
            problem = f"feature {name!r}: count of the text {node.input!r}; write count('not is_null({node.input})')"
            raise DeclarationError(problem, node.place)
        if hashed and declared is None:
            problem = f"feature {name!r}: {node.operation} of an expression; it takes a field"
            raise DeclarationError(problem, node.place)
        wanted = Input(
            node.input, None if declared else self.expressions[node.input], hashed,
            weighted=not hashed and (declared is None or declared.optional or group.kind == "facts"),
            decimals=declared.decimals if declared is not None else EXPRESSION_DECIMALS,
        )  # fmt: skip
        if wanted not in group.inputs:
            group.inputs.append(wanted)
        return group.inputs.index(wanted)

    def _fact_field(self, groups: list[GroupPlan]) -> str:
        fields = [label.name for label in self.labels]
        fields += [each.name for group in groups if group.kind == "facts" for each in group.inputs]
        distinct = list(dict.fromkeys(fields))
        if len(distinct) > 1:
            problem = f"stream {self.stream.name!r}: labels and features use the facts {', '.join(distinct)}; use one"
            raise DeclarationError(problem, self.stream.place)
        if distinct:
            kind = self.facts[0].schema.field(distinct[0]).type
            known = next((types for label, types in self.labels.items() if label.name == distinct[0]), ("bool", "int"))
            if kind not in known or (kind == "string" and any(group.kind == "facts" for group in groups)):
                problem = f"the label {self.facts[0].name}.{distinct[0]} is a {kind}; a label is a bool or an int"
                raise DeclarationError(problem, self.facts[0].place)
        return distinct[0] if distinct else ""

    def _spec(self, name: str) -> FeatureSpec:
        node = self.nodes[name]
        if isinstance(node, Column):
            return FeatureSpec(name, "category" if node.field.type == "string" else "number", "event")
        if isinstance(node, Derived):
            return FeatureSpec(name, "number", "derived")
        if node.operation in ("lag", "lag_seconds"):
            text = (
                node.input in node.stream.schema.names and node.stream.schema.field(node.input or "").type == "string"
            )
            return FeatureSpec(
                name, "category" if text else "number", f"{node.key}:{node.input or 'age'}", node.parameter
            )
        return FeatureSpec(name, "number", f"{node.key}:{node.span_ms}")


def _finish(group: GroupPlan, rows_per_key: int) -> None:
    """Lay out the rows and caches of a group, and write its program."""
    width = 2 if group.kind == "facts" else 1
    needs_squares = {column for node, column, _ in group.members if node.operation in ("std", "zscore")}
    columns, source = [], 0
    for number, each in enumerate(group.inputs):
        squares = number in needs_squares
        columns.append((source, width, int(each.weighted), int(squares), int(each.hashed)))
        source += 1 + int(each.weighted)
        width += 1 if each.hashed else 2 + 2 * int(each.weighted) + 2 * int(squares)
    caches: dict[tuple[int, int, int], int] = {}
    entropies: set[int] = set()
    program, params = [], []
    for node, column, window in group.members:
        operation = _OPERATIONS.get(node.operation, wf.COUNT if node.input is None else wf.COUNT_OF)
        if operation == wf.COUNT_OF and not group.inputs[column].weighted:
            operation = wf.COUNT
        cache = 0
        if node.operation in (*_COUNTED, "max", "min"):
            kind = {"max": ws.C_MAX, "min": ws.C_MIN}.get(node.operation, ws.C_COUNTS)
            cache = caches.setdefault((kind, window, column), len(caches))
            if node.operation == "entropy":
                entropies.add(cache)
        program.append((operation, window, column, cache, node.parameter))
        params.append(10.0 ** group.inputs[column].decimals if node.input is not None else 1.0)
    meta = ws.HINTS + len(group.windows)
    cache_rows = []
    for (kind, window, column), number in caches.items():
        cache_rows.append((kind, window, column, meta, int(number in entropies)))
        meta += 4 if kind == ws.C_COUNTS else 3

    def table(rows: Sequence[tuple[int, ...]], columns: int) -> np.ndarray:
        return np.array(rows, np.int64).reshape(len(rows), columns)

    group.meta_columns = meta
    shape = [width, int(group.kind == "facts"), rows_per_key, group.retention_ms]
    group.kernel = ws.Plan(
        table([tuple(each) for each in group.windows], 2), table(columns or [(0, 0, 0, 0, 0)], 5), table(cache_rows, 5),
        table(program, 5), np.array(params), np.array(shape, np.int64),
    )  # fmt: skip
    if not columns:
        group.kernel = group.kernel._replace(columns=np.zeros((0, 5), np.int64))
