"""How well are messages read that nobody has learned from, beside TF-IDF on the same messages?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.metrics import macro_f1, roc_auc
from models.text.scorer import SupportScorer
from ops.progress import Progress, Stage, silent
from ops.training.contents import Contents
from ops.training.evaluating import ContentTest
from ops.training.found import (
    REPORT,
    EvaluationError,
    EvaluationSettings,
    FigurePairs,
    Found,
    Table,
    experts_of,
    pairs_json,
    pairs_table,
    speed,
)  # fmt: skip
from ops.training.support_baseline import intents_by_tfidf, ranks_by_tfidf
from ops.training.support_plots import write_support_plots
from ops.training.support_training import articles_of
from pipeline.support import OUT_OF_SCOPE, SupportTask

BASELINE = "TF-IDF"
TOP_K = 5
TIMED_MESSAGES = 500
AT_ONCE = 128


@dataclass(frozen=True, kw_only=True)
class SupportEvaluation(Found):
    """What an evaluation on messages found.

    Attributes:
        figures: what -> ours, and of the baseline, None where it has none.
        messages: how many were judged.
    """

    figures: FigurePairs
    messages: int

    def summary(self) -> str:
        """Say how many there were."""
        return f"{self.messages:,} messages judged"

    def tables(self) -> list[Table]:
        """Return a row per figure."""
        return [pairs_table(self.figures, BASELINE)]


def evaluate_support(
    asked: ContentTest, task: SupportTask, out_dir: Path, settings: EvaluationSettings, progress: Progress = silent
) -> SupportEvaluation:
    """Judge a bundle by the messages of a test; write report and plots into `out_dir`.

    The baseline is TF-IDF: a linear SVM on the same training messages for intents, titles for articles.

    Raises:
        EvaluationError: the test has labels that the bundle does not know.
    """
    bundle, test = asked.bundle, asked.test
    scorer = SupportScorer(bundle)
    figures: FigurePairs = {}
    plots: dict[str, Path] = {}
    if scorer.settings.intents and task.intent is not None:
        learned = asked.learned if settings.baseline else None
        figures, plots = _intents(scorer, test, learned, task, out_dir, progress)
    if scorer.articles is not None and test.told("article").any():
        figures |= _articles(scorer, test, task, settings.baseline, progress)
    figures |= speed("message", lambda text: scorer.read([text], 3), test.values[:TIMED_MESSAGES].tolist())
    evaluation = SupportEvaluation(
        figures=figures, messages=len(test), bundle=bundle.id, notes=asked.notes, report_path=out_dir / REPORT,
        plots=plots, experts=experts_of(bundle),
    )  # fmt: skip
    evaluation.write(task, bundle, {"messages": len(test), "figures": pairs_json(figures, BASELINE)})
    return evaluation


def _intents(
    scorer: SupportScorer,
    test: Contents,
    learned: Contents | None,
    task: SupportTask,
    out_dir: Path,
    progress: Progress,
) -> tuple[FigurePairs, dict[str, Path]]:
    names = scorer.settings.intents
    told = test.where(test.told("intent"))
    unknown = sorted({str(intent) for intent in told.labels["intent"]} - {*names, OUT_OF_SCOPE})
    if unknown:
        raise EvaluationError(f"the test has intents that the bundle does not know: {', '.join(unknown)}; train again")
    place = {name: number for number, name in enumerate(names)} | {OUT_OF_SCOPE: -1}
    classes = np.array([place[str(intent)] for intent in told.labels["intent"]], np.int64)
    intents, priorities = _probabilities(scorer, told.values.tolist(), progress)
    inside, score, said = classes >= 0, intents.max(axis=1), intents.argmax(axis=1)
    theirs = None
    if learned is not None:
        progress(Stage(BASELINE, 0, 1))
        theirs = intents_by_tfidf(learned, told.values[inside].tolist(), place)
        progress(Stage(BASELINE, 1, 1))
    truth = classes[inside]
    top = np.argsort(-intents[inside], axis=1)[:, :3]
    figures: FigurePairs = {
        "accuracy": (_share(said[inside] == truth), None if theirs is None else _share(theirs == truth)),
        "macro_f1": (macro_f1(said[inside], truth), None if theirs is None else macro_f1(theirs, truth)),
        "accuracy_of_the_best_3": (_share((top == truth[:, None]).any(axis=1)), None),
        "passed_within_scope": (_share(score[inside] >= scorer.settings.line), None),
    }
    if not inside.all():
        figures["out_of_scope_found"] = (_share(score[~inside] < scorer.settings.line), None)
        figures["out_of_scope_auc"] = (roc_auc(-score, (~inside).astype(np.float64)), None)
    ranks = {name: number for number, name in enumerate(scorer.settings.priorities)}
    judged = np.array([ranks.get(str(priority), -1) for priority in told.labels["priority"]], np.int64)
    if (judged >= 0).any():
        figures["priority_accuracy"] = (_share(priorities.argmax(axis=1)[judged >= 0] == judged[judged >= 0]), None)
    title = f"{task.name}: {len(told):,} messages, accuracy {figures['accuracy'][0]:.3f}"
    return figures, write_support_plots(out_dir, title, names, classes, said, score, scorer.settings.line)


def _probabilities(
    scorer: SupportScorer, texts: Sequence[str], progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    parts = []
    for first in range(0, len(texts), AT_ONCE):
        parts.append(scorer.probabilities(texts[first : first + AT_ONCE]))
        progress(Stage("scores", min(first + AT_ONCE, len(texts)), len(texts)))
    return np.concatenate([each[0] for each in parts]), np.concatenate([each[1] for each in parts])


def _articles(
    scorer: SupportScorer, test: Contents, task: SupportTask, baseline: bool, progress: Progress
) -> FigurePairs:
    assert scorer.articles is not None
    told = test.where(test.told("article"))
    place = {id: number for number, id in enumerate(scorer.articles.ids)}
    unknown = sorted({str(article) for article in told.labels["article"]} - place.keys())
    if unknown:
        raise EvaluationError(
            f"labels name articles that the bundle does not have, such as {unknown[0]!r}; train again"
        )
    right = np.array([place[str(article)] for article in told.labels["article"]], np.int64)
    ranks = np.empty(len(told), np.int64)
    for first in range(0, len(told), AT_ONCE):
        texts = told.values[first : first + AT_ONCE].tolist()
        vectors = scorer.vectors(texts)
        for at, text in enumerate(texts):
            scores = scorer.articles.scores(text, None if vectors is None else vectors[at])
            ranks[first + at] = int(np.flatnonzero(np.argsort(-scores, kind="stable") == right[first + at])[0])
        progress(Stage("articles", first + len(texts), len(told)))
    ours = _ranking(ranks)
    theirs = _ranking(ranks_by_tfidf(articles_of(task), told.values.tolist(), right)) if baseline else {}
    return {name: (value, theirs.get(name)) for name, value in ours.items()}


def _ranking(ranks: NDArray[np.int64]) -> dict[str, float]:
    found = {f"article_recall@{k}": _share(ranks < k) for k in (1, 3, TOP_K)}
    return found | {"article_mrr": float(np.mean(1 / (ranks + 1)))}


def _share(which: NDArray[np.bool_]) -> float:
    return float(np.mean(which)) if which.size else float("nan")
