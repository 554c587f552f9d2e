"""What each kind of task is served with: its decider, and the scorer of its bundles."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from models.bundle import Bundle
from models.defect_scorer import DefectScorer
from models.runtimes import Gpu
from models.scorer import Scorer
from models.text.scorer import SupportScorer
from pipeline.app import AnyTask
from pipeline.decisions import AnyScorer, Decider, Served
from pipeline.defect_decisions import DefectDecider
from pipeline.defects import DefectTask
from pipeline.plan import StreamPlan
from pipeline.support import SupportTask
from pipeline.support_decisions import SupportDecider

AnyDecider = Decider | SupportDecider | DefectDecider


def decider_of(task: AnyTask, plan: StreamPlan) -> AnyDecider:
    """Return what turns the events of a task into decisions; `plan` is of the task's stream."""
    if isinstance(task, SupportTask):
        return SupportDecider(task)
    if isinstance(task, DefectTask):
        return DefectDecider(task)
    return Decider(task, plan)


def submit(task: AnyTask, served: Served, rows: Any, within_s: float = 0.0) -> Future[Any]:
    """Promise what the models of a task say of rows: a request, beside what streams bring and in the same batches.

    Args:
        task: of any kind.
        served: its models, with the queue in front of them.
        rows: (n, f) features in the order of the task's columns, NaN is null; n texts; or (n, s, s, c) uint8 images.
        within_s: how long the answer may take.

    Returns:
        `models.scorer.Scores`, a list of `models.text.scorer.Reading`, or `models.defects.DefectScores`.

    Raises:
        ValueError: no model serves the task.
    """
    scorer, queue = served.scorer, served.queue
    if scorer is None or queue is None:
        raise ValueError(f"no model serves {task.name!r} yet, so nobody can be asked; make one: pelton train APP")
    if isinstance(scorer, SupportScorer):
        assert isinstance(task, SupportTask)
        return queue.submit(task.name, scorer.read, rows, task.articles_top, within_s=within_s)
    return queue.submit(task.name, scorer.score, rows, within_s=within_s)


def timed_scorer_of(
    task: AnyTask,
    plan: StreamPlan,
    timer_s: Callable[[], float],
    bundle: Bundle,
    snapshot: bytes | None,
    gpu: Gpu = "never",
) -> AnyScorer:
    """Return the models of a bundle, warmed up, and timed if the task has a budget that they must keep.

    Raises:
        BundleError: it was made for another task, or for other features.
    """
    scorer = scorer_of(task, plan, bundle, snapshot, gpu)
    if task.budget_ms is not None:
        scorer.time(timer_s)
    return scorer


def scorer_of(task: AnyTask, plan: StreamPlan, bundle: Bundle, snapshot: bytes | None, gpu: Gpu = "never") -> AnyScorer:
    """Return the models of a bundle, warmed up.

    Raises:
        BundleError: it was made for another task, or for other features.
        RuntimeRefusedError: a GPU is required, and none can be used.
    """
    if isinstance(task, SupportTask):
        return SupportScorer(bundle, gpu)
    if isinstance(task, DefectTask):
        return DefectScorer(bundle, task.image_field.size, task.image_field.channels, gpu)
    return Scorer(bundle, snapshot, [plan.specs[column] for column in plan.columns_of[task.name]], gpu=gpu)
