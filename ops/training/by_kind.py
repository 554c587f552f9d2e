"""Tasks that are trained by themselves: each kind by its own means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from connectors.files import FileInput
from connectors.secrets import Tokeniser
from ops.progress import Progress
from ops.training.joint_training import trainable
from ops.training.training import TrainedBundle, TrainingSettings
from pipeline.app import App, Task
from pipeline.defects import DefectTask
from pipeline.support import SupportTask

EPOCHS_ON_IMAGES, EPOCHS_ON_TEXTS = 60, 10


def epochs_of(task: DefectTask | SupportTask) -> int:
    """Return how many epochs a task's network is trained, if nobody says."""
    return EPOCHS_ON_IMAGES if isinstance(task, DefectTask) else EPOCHS_ON_TEXTS


def chosen_tasks(
    app: App, name: str | None, inputs: Mapping[str, FileInput]
) -> tuple[list[Task], list[DefectTask | SupportTask], dict[str, str]]:
    """Return the tasks to train together, those to train by themselves, and why others are left out.

    Raises:
        ValueError: no such task, or none that can be trained.
    """
    if name is None and len(app.tasks) > 1:
        together, left_out = trainable(app, inputs)
        return together, [], left_out
    asked = app.task(name)
    return ([asked], [], {}) if isinstance(asked, Task) else ([], [asked], {})


def train_alone(
    app: App,
    task: DefectTask | SupportTask,
    inputs: Mapping[str, FileInput],
    settings: TrainingSettings,
    out_dir: Path,
    progress: Progress,
    tokeniser: Tokeniser | None,
) -> TrainedBundle:
    """Train one task and write its bundle into `out_dir`.

    Raises:
        ValueError: nothing can be learned; in one sentence.
    """
    if isinstance(task, DefectTask):
        from ops.training.defect_training import train_defects  # late: it needs the decoder of images

        return train_defects(app, task, inputs, settings, out_dir, progress, tokeniser)
    from ops.training.support_training import train_support

    return train_support(app, task, inputs, settings, out_dir, progress, tokeniser)
