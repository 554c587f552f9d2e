"""How good are a task's models on days that they have not seen, beside gradient boosting on the same features?

The history is replayed once; features and labels are as they were known at the time. Without a bundle one is trained,
as it would have been when the test begins. The learner is judged twice: frozen, as the bundle holds it, and going on
to learn during the test, each label from the hour after it became known.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from connectors.files import FileInput
from connectors.secrets import Tokeniser
from models.bundle import Bundle
from models.calibration import sigmoid
from models.expert_load import ExpertLoad
from models.ftrl import Ftrl
from models.metrics import at_threshold, average_precision, calibration_error, card_precision, roc_auc
from models.scorer import FTRL, Scorer
from models.threshold import ALLOW
from ops.progress import Progress, Stage, silent
from ops.training.baseline import SETTINGS, boosting
from ops.training.evaluating import Days
from ops.training.evaluation_plots import write_plots
from ops.training.event_training import train_on
from ops.training.found import REPORT, EvaluationError, EvaluationSettings, Found, Table, experts_of, notes_on
from ops.training.history import as_known, read_history
from ops.training.progressive import serve_and_learn
from ops.training.protocol import DAY_MS, Protocol, iso
from ops.training.training import TrainedBundle, check_trainable
from pipeline.app import App, Task
from pipeline.dataset import Dataset

Float64s = NDArray[np.float64]
CARDS = 100  # looked at per day in the card precision
ROWS_AT_ONCE = 512
BASELINE = "gradient boosting"
ONLINE = ", learning on"
DISTILLED = ", distilled"  # what the student answers where there is no time for the network
_IN_WORDS = {"moe": "network", "ftrl": "learner"}


@dataclass(frozen=True)
class Figures:
    """How good one model is; NaN where an answer does not exist.

    Attributes:
        model: what was judged.
        auc: area under the ROC curve.
        average_precision: of the ranking.
        f1, precision, recall: of the alerts that the task's threshold makes of the scores.
        card_precision: share of the 100 entities with the highest scores of a day that have fraud, mean over days.
        calibration_error: mean difference of probability and share of positives, in 15 bins of equally many events.
        alerts: how many there were.
    """

    model: str
    auc: float
    average_precision: float
    f1: float
    precision: float
    recall: float
    card_precision: float
    calibration_error: float
    alerts: int


@dataclass(frozen=True, kw_only=True)
class Evaluation(Found):
    """What an evaluation on event features found.

    Attributes:
        figures: per model, the one that decides first.
        events, positives: how many were judged; `left_out` were those of known victims.
        protocol: the days.
        trained: how the bundle was trained, if it was here.
        seconds: by stage.
    """

    figures: tuple[Figures, ...]
    events: int
    positives: int
    left_out: int
    protocol: Protocol
    trained: TrainedBundle | None
    seconds: dict[str, float]

    def summary(self) -> str:
        """Say what was judged, and on which days."""
        days = ", ".join(f"{name} {value}" for name, value in self.protocol.in_words().items())
        return f"{self.events:,} events judged, {self.positives:,} positive, {self.left_out:,} left out; {days}"

    def tables(self) -> list[Table]:
        """Return a row per model."""
        header = ["model", "AUC", "average precision", "F1", "precision", "recall", f"card precision@{CARDS}",
                  "calibration error", "alerts"]  # fmt: skip
        rows = [
            [each.model, *(_text(getattr(each, name), digits) for name, digits in _DIGITS), f"{each.alerts:,}"]
            for each in self.figures
        ]
        return [(header, rows)]


_DIGITS = (
    ("auc", 4), ("average_precision", 4), ("f1", 3), ("precision", 3), ("recall", 3), ("card_precision", 3),
    ("calibration_error", 5),
)  # fmt: skip


def evaluate(
    app: App,
    task: Task,
    inputs: Mapping[str, FileInput],
    days: Days | Protocol,
    out_dir: Path,
    bundle: Bundle | None = None,
    settings: EvaluationSettings | None = None,
    progress: Progress = silent,
    tokeniser: Tokeniser | None = None,
) -> Evaluation:
    """Judge a bundle, or one that is trained here, by the events of the test; write report and plots.

    Args:
        app: holds the task.
        task: with a label.
        inputs: stream name -> its files, with enough history before training starts to fill the windows.
        days: who learns from which days and is judged on which.
        out_dir: made if missing; gets evaluation.json, four plots and what training leaves.
        bundle: to judge; None trains one.
        settings: baseline, online learning, training.
        progress: told often.
        tokeniser: for sensitive fields.

    Raises:
        ValueError: the protocol does not fit the history, the bundle the app, or nothing can be trained; one sentence.
    """
    settings = settings or EvaluationSettings()
    check_trainable(task)
    if days.exclude_compromised and task.entity is None:
        raise EvaluationError(
            f'task {task.name!r} has no entity whose victims could be left out; give it entity="card" or judge all'
        )
    started = time.perf_counter()
    data = read_history(app, task, inputs, days.train_start_ms, tokeniser, progress)
    seconds = {"replay": round(time.perf_counter() - started, 2)}
    protocol = days if isinstance(days, Protocol) else days.protocol(data)
    return evaluate_on(data, task, protocol, out_dir, bundle, settings, progress, seconds)


def evaluate_on(
    data: Dataset,
    task: Task,
    protocol: Protocol,
    out_dir: Path,
    bundle: Bundle | None = None,
    settings: EvaluationSettings | None = None,
    progress: Progress = silent,
    seconds: dict[str, float] | None = None,
) -> Evaluation:
    """Evaluate on history that was read already; the rest as in `evaluate`."""
    settings, seconds = settings or EvaluationSettings(), dict(seconds or {})
    tested = protocol.tested(data)
    out_dir.mkdir(parents=True, exist_ok=True)
    trained = None
    if bundle is None:
        started = time.perf_counter()
        training = replace(settings.training, start_ms=protocol.train_start_ms, until_ms=protocol.test_start_ms)
        trained = train_on(protocol.training_part(data), task, training, out_dir, progress)
        bundle = trained.bundle
        seconds |= {"training": round(time.perf_counter() - started, 2)}
    started = time.perf_counter()
    scores, load = _scores(data, bundle, protocol, settings, progress)
    seconds["scores"] = round(time.perf_counter() - started, 2)
    if settings.baseline:
        started = time.perf_counter()
        progress(Stage(BASELINE, 0, 1))
        scores[BASELINE] = _baseline(data, protocol, settings.seed)
        progress(Stage(BASELINE, 1, 1))
        seconds[BASELINE] = round(time.perf_counter() - started, 2)
    judged = data.where(tested)
    in_range = (data.times_ms >= protocol.test_start_ms) & (data.times_ms < protocol.test_end_ms)
    alerts = {name: _alerts(task, score, in_range)[0] for name, score in scores.items()}
    figures = tuple(_figures(task, name, score[tested], alerts[name][tested], judged) for name, score in scores.items())
    first = next(iter(scores))
    thresholds = _alerts(task, scores[first], in_range)[1]
    title = f"{task.name}, {iso(protocol.test_start_ms)[:10]} to {iso(protocol.test_end_ms - 1)[:10]}: "
    title += f"{len(judged):,} events, {int(judged.labels.sum()):,} positive"
    shown = {name: scores[name][tested] for name in scores if not name.endswith(ONLINE)}
    plots = write_plots(out_dir, title, shown, judged.labels, judged.times_ms, thresholds[tested])
    labelled = in_range & np.isfinite(data.labels)
    evaluation = Evaluation(
        figures=figures, events=len(judged), positives=int(judged.labels.sum()),
        left_out=int((labelled & ~tested).sum()), protocol=protocol, bundle=bundle.id, trained=trained,
        notes=notes_on(bundle, protocol.test_start_ms), report_path=out_dir / REPORT, plots=plots, seconds=seconds,
        experts=experts_of(bundle, load),
    )  # fmt: skip
    evaluation.write(task, bundle, {
        "protocol": protocol.in_words(), "events": evaluation.events, "positives": evaluation.positives,
        "left_out_as_compromised": evaluation.left_out, "threshold": msgspec.to_builtins(task.threshold),
        "figures": [msgspec.to_builtins(each) for each in figures], "baseline": SETTINGS, "seconds": seconds,
        "training_seconds": trained.seconds if trained is not None else None,
    })  # fmt: skip
    return evaluation


def _scores(
    data: Dataset, bundle: Bundle, protocol: Protocol, settings: EvaluationSettings, progress: Progress
) -> tuple[dict[str, Float64s], ExpertLoad | None]:
    """Return the (events,) probabilities of each model in the test's range, NaN elsewhere; what decides comes first.

    Beside them the visits of experts.
    """
    scorer = Scorer(bundle, None, data.specs, buckets=(ROWS_AT_ONCE,))
    online = settings.online and FTRL in bundle.parts
    in_range = (data.times_ms >= protocol.test_start_ms) & (data.times_ms < protocol.test_end_ms)
    until_ms = bundle.meta.provenance.get("until_ms")  # what became known from then on, it goes on to learn
    since_ms = min(int(until_ms), protocol.test_start_ms) if isinstance(until_ms, int) else protocol.test_start_ms
    waiting = (data.times_ms < protocol.test_end_ms) & (data.known_ms >= since_ms)
    rows = np.flatnonzero(in_range | waiting if online else in_range)
    logits = {name: np.full(rows.size, np.nan) for name in scorer.blend.names}
    for first in range(0, rows.size, 16 * ROWS_AT_ONCE):
        chunk = slice(first, first + 16 * ROWS_AT_ONCE)
        scored = scorer.score(data.features[rows[chunk]])
        for name, values in (("moe", scored.moe_logits), ("ftrl", scored.ftrl_logits)):
            if name in logits:
                logits[name][chunk] = values
        progress(Stage("scores", min(chunk.stop, rows.size), rows.size))
    student = _by_student(scorer, data.features, rows, progress)
    found = {"blend": scorer.blend.probability(np.column_stack(list(logits.values())))}
    alone = {_IN_WORDS[name]: sigmoid(values) for name, values in logits.items()}
    if online:
        learner = Ftrl.restore(bundle.part(FTRL))
        moe_logits = logits.get("moe", np.full(rows.size, np.nan))
        learned = serve_and_learn(learner, data.where(_mask(rows, len(data))), moe_logits, since_ms)
        with_it = np.column_stack([learned if name == "ftrl" else values for name, values in logits.items()])
        found[f"blend{ONLINE}"] = scorer.blend.probability(with_it)
        alone[f"learner{ONLINE}"] = sigmoid(learned)
    spread = {}
    for name, values in (found | alone | student).items():
        spread[name] = np.full(len(data), np.nan)
        spread[name][rows] = values
        spread[name][~in_range] = np.nan
    return spread, scorer.load


def _by_student(scorer: Scorer, features: Float64s, rows: NDArray[np.int64], progress: Progress) -> dict[str, Float64s]:
    """Return the (rows,) probabilities of the blend with the student and of the student alone; none without one."""
    if scorer.fallback is None:
        return {}
    blended, alone = np.full(rows.size, np.nan), np.full(rows.size, np.nan)
    for first in range(0, rows.size, 16 * ROWS_AT_ONCE):
        chunk = slice(first, first + 16 * ROWS_AT_ONCE)
        scored = scorer.fallback.score(features[rows[chunk]])
        blended[chunk], alone[chunk] = scored.probability, sigmoid(scored.moe_logits)
        progress(Stage("student's scores", min(chunk.stop, rows.size), rows.size))
    return {f"blend{DISTILLED}": blended, "student": alone}


def _mask(rows: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    mask = np.zeros(count, np.bool_)
    mask[rows] = True
    return mask


def _baseline(data: Dataset, protocol: Protocol, seed: int) -> Float64s:
    """Return the probabilities of gradient boosting, trained on what the bundle could have been trained on."""
    known = as_known(protocol.training_part(data), protocol.test_start_ms)
    in_range = (data.times_ms >= protocol.test_start_ms) & (data.times_ms < protocol.test_end_ms)
    scores = np.full(len(data), np.nan)
    scores[in_range] = boosting(known.features, known.labels, data.features[in_range], data.specs, seed)
    return scores


def _alerts(task: Task, scores: Float64s, in_range: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], Float64s]:
    """Let the task's threshold go through the test; return which (events,) alert, and where alerts began for each."""
    banded, _ = task.threshold.decide(scores[in_range], task.threshold.start())
    alerts, thresholds = np.zeros(scores.size, np.bool_), np.full(scores.size, np.nan)
    alerts[in_range], thresholds[in_range] = banded.codes != ALLOW, banded.thresholds
    return alerts, thresholds


def _figures(task: Task, name: str, scores: Float64s, alerts: NDArray[np.bool_], judged: Dataset) -> Figures:
    labels = judged.labels
    counts = at_threshold(alerts.astype(np.float64), labels, 1.0)
    cards = float("nan")
    if task.entity is not None:
        cards = card_precision(scores, labels, judged.entities, judged.times_ms // DAY_MS, CARDS)
    return Figures(
        name, roc_auc(scores, labels), average_precision(scores, labels), counts.f1, counts.precision, counts.recall,
        cards, calibration_error(scores, labels), int(alerts.sum()),
    )  # fmt: skip


def _text(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "-"
