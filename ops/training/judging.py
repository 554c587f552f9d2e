"""Judge any task of an app: each kind by its own means, one after another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from connectors.files import FileInput
from connectors.secrets import Tokeniser
from models.bundle import MANIFEST, Bundle, BundleError, read_bundle
from ops.progress import Progress, silent
from ops.served import bundle_of
from ops.settings import Settings
from ops.training.evaluating import Days, content_test
from ops.training.found import EvaluationError, EvaluationSettings, Found
from ops.training.joint_training import trainable
from pipeline.app import AnyTask, App, Task
from pipeline.defects import DefectTask


def judge(
    app: App,
    task: AnyTask,
    inputs: Mapping[str, FileInput],
    days: Days,
    out_dir: Path,
    bundle: Bundle | None,
    settings: EvaluationSettings,
    progress: Progress = silent,
    tokeniser: Tokeniser | None = None,
) -> Found:
    """Judge a bundle of a task, or one trained as of the test's begin; write report and plots into `out_dir`.

    Raises:
        ValueError: there is nothing to judge, or nothing can be trained; one sentence.
    """
    if isinstance(task, Task):
        from ops.training.evaluation import evaluate  # late, like the others: each brings models of its own

        return evaluate(app, task, inputs, days, out_dir, bundle, settings, progress, tokeniser)
    asked = content_test(app, task, inputs, days, out_dir, bundle, settings, progress, tokeniser)
    if isinstance(task, DefectTask):
        from ops.training.defect_evaluation import evaluate_defects

        return evaluate_defects(asked, task, out_dir, settings, progress)
    from ops.training.support_evaluation import evaluate_support

    return evaluate_support(asked, task, out_dir, settings, progress)


def bundles_to_judge(
    app: App, settings: Settings, inputs: Mapping[str, FileInput], wanted: str | None
) -> tuple[list[tuple[AnyTask, Bundle]], dict[str, str]]:
    """Return each task of an app with the bundle that serves it, or its newest in a folder, and why others have none.

    Args:
        app: whose tasks.
        settings: where the registry is.
        inputs: stream name -> its files; a task without files is left out.
        wanted: a folder that `pelton train` wrote bundles into; None for what serves.

    Raises:
        ValueError: no task is left, or a bundle is damaged.
    """
    tasks, left_out = trainable(app, inputs)
    found: list[tuple[AnyTask, Bundle]] = []
    for task in tasks:
        try:
            found.append((task, bundle_for(app, settings, task, wanted)))
        except BundleError as problem:
            left_out[task.name] = str(problem)
    if not found:
        raise EvaluationError(f"no task can be judged: {'; '.join(f'{name}: {why}' for name, why in left_out.items())}")
    return found, left_out


def bundle_for(app: App, settings: Settings, task: AnyTask, wanted: str | None) -> Bundle:
    """Return a task's bundle: in a folder, its newest below a folder, by the digits of its id, or what serves.

    Raises:
        BundleError: there is none, it is damaged, or of another task.
    """
    folder = Path(wanted) if wanted is not None else None
    if folder is None or not folder.is_dir() or (folder / MANIFEST).is_file():
        return bundle_of(app, settings, task, wanted)[0]
    made = [read_bundle(path.parent) for path in sorted(folder.glob(f"{task.name}-*/{MANIFEST}"))]
    if not made:
        raise BundleError(f"{folder} has no bundle of task {task.name!r}; make one: pelton train APP --out {folder}")
    return max(made, key=lambda bundle: bundle.meta.created_ms)
