"""How well are messages read that nobody has learned from, beside TF-IDF on the same messages?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from connectors.files import FileInput
from connectors.secrets import Tokeniser
from models.bundle import Bundle
from models.metrics import roc_auc
from models.text.scorer import SupportScorer
from ops.progress import Progress, Stage, silent
from ops.training.evaluating import TEST_SHARE, Days
from ops.training.evaluation import REPORT, EvaluationError
from ops.training.support_baseline import intents_by_tfidf, ranks_by_tfidf
from ops.training.support_history import Messages, read_messages
from ops.training.support_plots import write_support_plots
from ops.training.support_training import articles_of, train_on_messages
from ops.training.training import TrainingSettings
from pipeline.app import App
from pipeline.support import OUT_OF_SCOPE, SupportTask

BASELINE = "TF-IDF"
TOP_K = 5
TIMED_MESSAGES = 500
AT_ONCE = 128


@dataclass(frozen=True)
class SupportEvaluation:
    """What an evaluation found.

    Attributes:
        figures: what -> ours, and of the baseline, None where it has none.
        messages: how many were judged.
        bundle: id of the bundle that was judged.
        report_path: a JSON file with all of it.
        plots: name -> PNG file.
    """

    figures: dict[str, tuple[float, float | None]]
    messages: int
    bundle: str
    report_path: Path
    plots: dict[str, Path]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return a header and a row of texts per figure."""
        rows = [
            [name.replace("_", " "), f"{ours:.4g}", "" if theirs is None else f"{theirs:.4g}"]
            for name, (ours, theirs) in self.figures.items()
        ]
        return ["figure", "bundle", BASELINE], rows


def evaluate_support(
    app: App,
    task: SupportTask,
    inputs: Mapping[str, FileInput],
    days: Days,
    out_dir: Path,
    bundle: Bundle | None,
    training: TrainingSettings,
    baseline: bool = True,
    progress: Progress = silent,
    tokeniser: Tokeniser | None = None,
) -> SupportEvaluation:
    """Judge a bundle, or one trained as of the test's begin, by the messages of the test; write report and plots.

    Args:
        app: holds the task.
        task: with labels.
        inputs: stream name -> its files.
        days: of training and test; the test is the last 30 % of the time, if not given, and all of it where there is
            nothing to learn.
        out_dir: made if missing.
        bundle: to judge; None trains one.
        training: how to train it.
        baseline: also TF-IDF: a linear SVM on the same training messages for intents, titles for articles.
        progress: told often.
        tokeniser: for sensitive fields.

    Raises:
        ValueError: there is nothing to judge, or nothing can be trained; one sentence.
    """
    if task.label is None:
        raise EvaluationError(f"task {task.name!r} has no label to compare with; give it intent= or article=")
    messages = read_messages(app, task, inputs, tokeniser, progress)
    if not len(messages):
        raise EvaluationError(f"task {task.name!r} has no message to judge")
    start_ms = days.test_start_ms if days.test_start_ms is not None else days.train_end_ms
    if start_ms is None:
        first, last = int(messages.times_ms.min()), int(messages.times_ms.max())
        start_ms = first + int((last - first) * (1 - TEST_SHARE)) if task.intent is not None else first
    until_ms = min(start_ms, days.train_end_ms) if days.train_end_ms is not None else start_ms
    out_dir.mkdir(parents=True, exist_ok=True)
    if bundle is None:
        wanted = replace(training, start_ms=days.train_start_ms, until_ms=until_ms)
        bundle = train_on_messages(messages, task, wanted, out_dir, progress).bundle
    test = messages.known(start_ms, None)
    if days.test_end_ms is not None:
        test = test.where(test.times_ms < days.test_end_ms)
    if not len(test):
        raise EvaluationError("no message of the test has a label; choose other days, or give the file of labels")
    scorer = SupportScorer(bundle)
    figures: dict[str, tuple[float, float | None]] = {}
    plots: dict[str, Path] = {}
    if scorer.settings.intents and task.intent is not None:
        learned = messages.known(days.train_start_ms, until_ms)
        found, plots = _intents(scorer, test, learned if baseline else None, task, out_dir, progress)
        figures |= found
    if scorer.articles is not None and any(test.articles):
        figures |= _articles(scorer, test, task, baseline, progress)
    figures |= {name: (value, None) for name, value in _speed(scorer, test).items()}
    evaluation = SupportEvaluation(figures, len(test), bundle.id, out_dir / REPORT, plots)
    _write_report(evaluation, task, bundle)
    return evaluation


def _intents(
    scorer: SupportScorer,
    test: Messages,
    learned: Messages | None,
    task: SupportTask,
    out_dir: Path,
    progress: Progress,
) -> tuple[dict[str, tuple[float, float | None]], dict[str, Path]]:
    names = scorer.settings.intents
    told = test.where(np.array([intent is not None for intent in test.intents], np.bool_))
    unknown = sorted({str(intent) for intent in told.intents} - {*names, OUT_OF_SCOPE})
    if unknown:
        raise EvaluationError(f"the test has intents that the bundle does not know: {', '.join(unknown)}; train again")
    place = {name: number for number, name in enumerate(names)} | {OUT_OF_SCOPE: -1}
    classes = np.array([place[str(intent)] for intent in told.intents], np.int64)
    intents, priorities = _probabilities(scorer, told.texts, progress)
    inside, score, said = classes >= 0, intents.max(axis=1), intents.argmax(axis=1)
    theirs = None
    if learned is not None:
        progress(Stage(BASELINE, 0, 1))
        theirs = intents_by_tfidf(learned, [told.texts[row] for row in np.flatnonzero(inside)], place)
        progress(Stage(BASELINE, 1, 1))
    truth = classes[inside]
    top = np.argsort(-intents[inside], axis=1)[:, :3]
    figures: dict[str, tuple[float, float | None]] = {
        "accuracy": (_share(said[inside] == truth), None if theirs is None else _share(theirs == truth)),
        "macro_f1": (macro_f1(said[inside], truth), None if theirs is None else macro_f1(theirs, truth)),
        "accuracy_of_the_best_3": (_share((top == truth[:, None]).any(axis=1)), None),
        "passed_within_scope": (_share(score[inside] >= scorer.settings.line), None),
    }
    if not inside.all():
        figures["out_of_scope_found"] = (_share(score[~inside] < scorer.settings.line), None)
        figures["out_of_scope_auc"] = (roc_auc(-score, (~inside).astype(np.float64)), None)
    ranks = {name: number for number, name in enumerate(scorer.settings.priorities)}
    judged = np.array([ranks.get(str(priority), -1) for priority in told.priorities], np.int64)
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
    scorer: SupportScorer, test: Messages, task: SupportTask, baseline: bool, progress: Progress
) -> dict[str, tuple[float, float | None]]:
    assert scorer.articles is not None
    told = test.where(np.array([article is not None for article in test.articles], np.bool_))
    place = {id: number for number, id in enumerate(scorer.articles.ids)}
    unknown = sorted({str(article) for article in told.articles} - place.keys())
    if unknown:
        raise EvaluationError(
            f"labels name articles that the bundle does not have, such as {unknown[0]!r}; train again"
        )
    right = np.array([place[str(article)] for article in told.articles], np.int64)
    ranks = np.empty(len(told), np.int64)
    for row, text in enumerate(told.texts):
        scores = scorer.articles.scores(text)
        ranks[row] = int(np.flatnonzero(np.argsort(-scores, kind="stable") == right[row])[0])
        if row % AT_ONCE == 0:
            progress(Stage("articles", row, len(told)))
    progress(Stage("articles", len(told), len(told)))
    ours = _ranking(ranks)
    theirs = _ranking(ranks_by_tfidf(articles_of(task), told.texts, right)) if baseline else {}
    return {name: (value, theirs.get(name)) for name, value in ours.items()}


def _ranking(ranks: NDArray[np.int64]) -> dict[str, float]:
    found = {f"article_recall@{k}": _share(ranks < k) for k in (1, 3, TOP_K)}
    return found | {"article_mrr": float(np.mean(1 / (ranks + 1)))}


def macro_f1(said: NDArray[np.int64], classes: NDArray[np.int64]) -> float:
    """Return the mean over the classes that are there of 2 tp / (2 tp + fp + fn).

    >>> macro_f1(np.array([0, 1, 1]), np.array([0, 1, 0]))
    0.6666666666666666
    """
    shares = []
    for place in np.unique(classes):
        hits = int(((said == place) & (classes == place)).sum())
        shares.append(2 * hits / int((said == place).sum() + (classes == place).sum()))
    return float(np.mean(shares))


def _share(which: NDArray[np.bool_]) -> float:
    return float(np.mean(which)) if which.size else float("nan")


def _speed(scorer: SupportScorer, test: Messages) -> dict[str, float]:
    """Time one message after the other on one thread, articles included."""
    took = []
    for text in test.texts[:TIMED_MESSAGES]:
        started = time.perf_counter()
        scorer.read([text], 3)
        took.append(1e3 * (time.perf_counter() - started))
    return {"message_ms_p50": float(np.median(took)), "message_ms_p99": float(np.quantile(took, 0.99))}


def _write_report(evaluation: SupportEvaluation, task: SupportTask, bundle: Bundle) -> None:
    told = {
        "task": task.name, "bundle": bundle.id, "provenance": bundle.meta.provenance, "messages": evaluation.messages,
        "figures": {name: {"bundle": ours, BASELINE: theirs} for name, (ours, theirs) in evaluation.figures.items()},
        "plots": {name: path.name for name, path in evaluation.plots.items()},
    }  # fmt: skip
    evaluation.report_path.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")
