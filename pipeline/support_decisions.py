"""From messages to decisions: what the writer wants, how urgent it is, which articles answer it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.text.scorer import NONE_READ, SupportScorer
from models.threshold import ALLOW, REVIEW
from pipeline.decisions import COMMON, NetworkDecider, Served, common_columns
from pipeline.engine import Featured
from pipeline.support import OUT_OF_SCOPE, SupportTask

INTENT_SCORES = pa.list_(pa.struct([("intent", pa.string()), ("score", pa.float64())]))
ARTICLES = pa.list_(pa.struct([("id", pa.string()), ("score", pa.float64())]))
SCHEMA = pa.schema(
    [
        *COMMON, ("intent", pa.string()), ("intent_scores", INTENT_SCORES), ("is_out_of_scope", pa.bool_()),
        ("priority", pa.string()), ("articles", ARTICLES),
    ]
)  # fmt: skip


class SupportDecider(NetworkDecider):
    """Decides the messages of one task, in log order.

    The score of a decision is the probability of the intent, the threshold the line of its bundle below which a
    message counts as out of scope and is reviewed. Without a model every message is reviewed.
    """

    def __init__(self, task: SupportTask) -> None:
        super().__init__(SCHEMA)
        self.task = task

    def decide(self, featured: Featured, served: Served) -> pa.RecordBatch:
        """Return one row per message."""
        scorer, count = served.scorer, len(featured)
        assert scorer is None or isinstance(scorer, SupportScorer)
        texts = featured.rows.column(self.task.text.name).to_pylist()
        read = [NONE_READ] * count
        if scorer is not None:
            read = served.ask(self.task.name, scorer.read, texts, self.task.articles_top)
        judged = [each.is_out_of_scope is not None for each in read]
        codes = np.array([REVIEW if each.is_out_of_scope is not False else ALLOW for each in read], np.int64)
        line = scorer.line if scorer is not None else None
        scores = [[{"intent": name, "score": score} for name, score in each.intents] for each in read]
        columns = [
            *common_columns(
                self.task, featured, served, codes, pa.array([each.score for each in read], pa.float64()),
                pa.array([line if known else None for known in judged], pa.float64()),
                pa.array([self._reasons(each.is_out_of_scope) for each in read], pa.list_(pa.string())),
            ),
            pa.array([self._intent(each.is_out_of_scope, each.intents) for each in read], pa.string()),
            pa.array(scores, INTENT_SCORES), pa.array([each.is_out_of_scope for each in read], pa.bool_()),
            pa.array([each.priority for each in read], pa.string()),
            pa.array([[{"id": id, "score": score} for id, score in each.articles] for each in read], ARTICLES),
        ]  # fmt: skip
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _intent(self, is_out_of_scope: bool | None, intents: tuple[tuple[str, float], ...]) -> str | None:
        return OUT_OF_SCOPE if is_out_of_scope else intents[0][0] if intents else None

    def _reasons(self, is_out_of_scope: bool | None) -> list[str]:
        return ["no intent is clear enough"] if is_out_of_scope else []
