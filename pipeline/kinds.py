"""What each kind of task is served with: its decider, and the scorer of its bundles."""

from __future__ import annotations

from models.bundle import Bundle
from models.defect_scorer import DefectScorer
from models.runtimes import Gpu
from models.scorer import Scorer
from models.text.scorer import SupportScorer
from pipeline.app import AnyTask
from pipeline.decisions import AnyScorer, Decider
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
