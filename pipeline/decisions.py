"""From features to decisions: rules, scores, threshold, reasons. One row of output per event and task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.batch_queue import BatchQueue
from models.defect_scorer import DefectScorer
from models.rung_cost import RungCost
from models.scorer import Scorer, Scores
from models.text.scorer import SupportScorer
from models.threshold import DECISIONS, ThresholdState
from pipeline.app import AnyTask, Task
from pipeline.engine import Featured
from pipeline.feature_values import FeatureValues
from pipeline.plan import StreamPlan
from pipeline.row_columns import code_of_text

Float64s = NDArray[np.float64]
COMMON = pa.schema(
    [
        ("event_id", pa.string()), ("task", pa.string()), ("time_ms", pa.int64()), ("decision", pa.string()),
        ("score", pa.float64()), ("threshold", pa.float64()), ("rule", pa.string()), ("reasons", pa.list_(pa.string())),
        ("bundle", pa.string()), ("snapshot", pa.string()), ("rung", pa.string()), ("source_offset", pa.int64()),
    ]
)  # fmt: skip
_FIXED = pa.schema([*COMMON, ("moe_logit", pa.float64()), ("ftrl_logit", pa.float64())])
FIXED_COLUMNS = tuple(_FIXED.names)
_DECISION_NAMES = pa.array(DECISIONS)
Answers = TypeVar("Answers")
AnyScorer = Scorer | SupportScorer | DefectScorer
FREE = RungCost(0.0, 1e-9)


@dataclass(frozen=True)
class Served:
    """The models that decide, and their names for the record; `scorer` is None where rules decide alone.

    Attributes:
        queue: where rows wait for their turn at the models; None where they are computed at once.
    """

    scorer: AnyScorer | None = None
    bundle: str = ""
    snapshot: str = ""
    queue: BatchQueue | None = None

    def ask(self, task: str, method: Callable[..., Answers], rows: Any, *more: Any) -> Answers:
        """Return `method(rows, *more)`, of this scorer: when it is the task's turn, if there is a queue."""
        return method(rows, *more) if self.queue is None else self.queue.run(task, method, rows, *more)

    @property
    def rung(self) -> str:
        """Which models answer, in a word."""
        return self.scorer.rung if self.scorer is not None else "rules"

    @property
    def cost(self) -> RungCost | None:
        """What an answer costs; None where nobody timed it. Rules alone cost next to nothing."""
        return self.scorer.cost if self.scorer is not None else FREE

    def rungs(self) -> tuple[Served, ...]:
        """Return what may decide in its place when time is short, the best first, this one before all.

        The bundle stays the one that serves: its rules, and its student, are part of it.
        """
        if self.scorer is None:
            return (self,)
        student = (replace(self, scorer=self.scorer.fallback),) if self.scorer.fallback is not None else ()
        return (self, *student, replace(self, scorer=None))


class Decider:
    """Decides the events of one task, in log order.

    Attributes:
        state: of the threshold; part of each commit's manifest.
    """

    def __init__(self, task: Task, plan: StreamPlan) -> None:
        self.task, self._plan = task, plan
        self.columns = list(plan.columns_of[task.name])
        self.specs = tuple(plan.specs[column] for column in self.columns)
        self.names = tuple(plan.names[column] for column in self.columns)
        self.state: ThresholdState = task.threshold.start()
        self.feature_names = self._free_names()
        self.schema = pa.schema([*_FIXED, *(pa.field(name, pa.float64()) for name in self.feature_names)])

    def _free_names(self) -> list[str]:
        """Names of the feature columns; one that is taken by the record itself gets a trailing underscore."""
        return [f"{name}_" if name in FIXED_COLUMNS else name for name in self.names]

    def decide(self, featured: Featured, served: Served) -> pa.RecordBatch:
        """Return one row per event: what was decided, why, by what, and the features it was decided on."""
        scorer = served.scorer
        assert scorer is None or isinstance(scorer, Scorer)
        features = (
            featured.matrix if len(self.columns) == featured.matrix.shape[1] else featured.matrix[:, self.columns]
        )
        scores = self._scores(features, served)
        banded, self.state = self.task.threshold.decide(scores.probability, self.state)
        codes, thresholds = banded.codes.astype(np.int64), banded.thresholds
        if scorer is None:
            codes, thresholds = np.zeros(len(features), np.int64), np.full(len(features), np.nan)
        rules = self._rules(featured)
        for number, rule in enumerate(self.task.rules):
            codes[rules == number] = DECISIONS.index(rule.then)
        names = pa.array([*(rule.name for rule in self.task.rules), None], pa.string())
        logits = np.stack([scores.probability, thresholds, scores.moe_logits, scores.ftrl_logits])
        probability, limit, moe, ftrl = _columns(logits)
        reasons = self._reasons(features, codes, rules, served)
        fixed = common_columns(
            self.task, featured, served, codes, probability, limit, reasons, names.take(pa.array(rules % len(names)))
        )
        return pa.RecordBatch.from_arrays([*fixed, moe, ftrl, *_columns(features.T)], schema=self.schema)

    def _scores(self, features: Float64s, served: Served) -> Scores:
        if isinstance(served.scorer, Scorer):
            return served.ask(self.task.name, served.scorer.score, features)
        none = np.full(len(features), np.nan)
        return Scores(none, none, none, "rules")

    def _rules(self, featured: Featured) -> NDArray[np.int64]:
        """Return (events,) the first rule that holds, -1 for none."""
        first = np.full(len(featured), -1, np.int64)
        values = FeatureValues(featured.columns, self._plan, featured.matrix)
        for number in range(len(self.task.rules) - 1, -1, -1):
            expression = self.task.rules[number].when
            holds = expression.evaluate(values, code_of_text, len(featured))  # type: ignore[arg-type]  # is asked by name only
            first[np.nan_to_num(holds) != 0] = number
        return first

    def _reasons(
        self, features: Float64s, codes: NDArray[np.int64], rules: NDArray[np.int64], served: Served
    ) -> pa.ListArray:
        """Explain what is not simply allowed: the rule first, then the features that moved the score most."""
        asked = np.flatnonzero(codes != 0)
        explained: list[list[str]] = [[] for _ in asked]
        if isinstance(served.scorer, Scorer):
            explained = served.ask(self.task.name, served.scorer.reasons, features[asked])
        words: list[str] = []
        counts = np.zeros(len(features) + 1, np.int32)
        for event, reasons in zip(asked, explained, strict=True):
            by_rule = [f"rule: {self.task.rules[rules[event]].name}"] if rules[event] >= 0 else []
            words += by_rule + reasons
            counts[event + 1] = len(by_rule) + len(reasons)
        return pa.ListArray.from_arrays(pa.array(np.cumsum(counts, dtype=np.int32)), pa.array(words, pa.string()))


def common_columns(
    task: AnyTask,
    featured: Featured,
    served: Served,
    codes: NDArray[np.int64],
    score: pa.Array,
    threshold: pa.Array,
    reasons: pa.Array,
    rule: pa.Array | None = None,
) -> list[pa.Array]:
    """Return the columns of `COMMON`; `codes` are indices into DECISIONS, and without `rule` none decided."""
    count, ids = len(featured), featured.rows.column(task.on.schema.id)
    return [
        ids if pa.types.is_string(ids.type) else ids.cast(pa.string()), _same(task.name, count),
        pa.array(featured.columns.times_ms), _DECISION_NAMES.take(pa.array(codes)), score, threshold,
        rule if rule is not None else pa.nulls(count, pa.string()), reasons, _same(served.bundle, count),
        _same(served.snapshot, count), _same(served.rung, count), pa.array(featured.offsets),
    ]  # fmt: skip


class NetworkDecider:
    """What deciders have in common whose network reads or looks: no state, for each event is taken by itself.

    Attributes:
        state: of the threshold; it never moves.
        columns, feature_names: of features; there are none.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.state = ThresholdState(0.0, 0.0)
        self.columns: list[int] = []
        self.feature_names: list[str] = []
        self.schema = schema


def _same(text: str, count: int) -> pa.Array:
    """Return a text `count` times, null for an empty one."""
    return pa.repeat(pa.scalar(text or None, pa.string()), count)


def _columns(values: Float64s) -> list[pa.Array]:
    """Return the rows of (columns, n) values as columns, NaN as null; they share their memory."""
    together = pa.array(np.ascontiguousarray(values).ravel(), pa.float64(), from_pandas=True)
    count = values.shape[1]
    return [together.slice(column * count, count) for column in range(len(values))]
