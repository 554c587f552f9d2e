"""Tasks of an app, of any kinds, in one training: their networks share a trunk, and each gets a bundle of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from connectors.files import FileInput
from connectors.secrets import Tokeniser
from ops.progress import Progress, silent
from ops.training.clock import Clock
from ops.training.contents import Contents, read_contents
from ops.training.event_training import EventLesson
from ops.training.history import read_history
from ops.training.training import (
    Lesson,
    TrainedBundle,
    TrainingError,
    TrainingSettings,
    check_trainable,
    named,
    train_lessons,
)
from pipeline.app import AnyTask, App, Task
from pipeline.defects import DefectTask
from pipeline.support import SupportTask


def train_together(
    app: App,
    tasks: Sequence[AnyTask],
    inputs: Mapping[str, FileInput],
    settings: TrainingSettings,
    out_dir: Path,
    progress: Progress = silent,
    tokeniser: Tokeniser | None = None,
) -> dict[str, TrainedBundle]:
    """Replay history for each task, train those with a network jointly, and write a bundle for each.

    Args:
        app: holds the tasks.
        tasks: with something to train.
        inputs: stream name -> its files.
        settings: which part of history, how long, which seed.
        out_dir: see `ops.training.training.train_lessons`.
        progress: told often, if there are several tasks each one's stages under its name; what it raises ends the
            training, which `resume` can then take up.
        tokeniser: for sensitive fields, with the key that serves.

    Raises:
        ValueError: a task has nothing to train, too little history, or a setting does not fit; in one sentence.
    """
    for task in tasks:
        check_trainable(task)
    lessons = []
    for task in tasks:
        clock = Clock()
        lessons.append(read_lesson(app, task, inputs, settings, named(progress, task, tasks), tokeniser))
        clock.stage("replay")
        lessons[-1].clock = clock
    return train_lessons(lessons, out_dir, progress)


def read_lesson(
    app: App,
    task: AnyTask,
    inputs: Mapping[str, FileInput],
    settings: TrainingSettings,
    progress: Progress = silent,
    tokeniser: Tokeniser | None = None,
) -> Lesson:
    """Replay the history of one task.

    Raises:
        ValueError: there is too little, or a setting does not fit; in one sentence.
    """
    if isinstance(task, Task):
        history = read_history(app, task, inputs, settings.start_ms, tokeniser, progress)
        return EventLesson(history, task, settings)
    return content_lesson(read_contents(app, task, inputs, tokeniser, progress), task, settings, progress)


def content_lesson(
    contents: Contents, task: SupportTask | DefectTask, settings: TrainingSettings, progress: Progress = silent
) -> Lesson:
    """Make a lesson of texts or images that were read already.

    Raises:
        ValueError: there are too few, or a setting does not fit; in one sentence.
    """
    if isinstance(task, DefectTask):
        from ops.training.defect_training import ImageLesson

        return ImageLesson(contents, task, settings)
    from ops.training.support_training import TextLesson

    return TextLesson(contents, task, settings, progress)


def chosen_tasks(
    app: App, names: Sequence[str], inputs: Mapping[str, FileInput]
) -> tuple[list[AnyTask], dict[str, str]]:
    """Return the tasks to train, those of some names or all that can be trained, and why others are left out.

    Raises:
        ValueError: no such task, or none that can be trained.
    """
    if not names and len(app.tasks) > 1:
        return trainable(app, inputs)
    wanted = [app.task(name) for name in names] if names else [app.task()]
    return [task for task in app.tasks if task in wanted], {}


def trainable(app: App, inputs: Mapping[str, FileInput]) -> tuple[list[AnyTask], dict[str, str]]:
    """Choose the tasks of an app that can be trained on these files; return them, and why not for each other.

    Raises:
        TrainingError: there is none.
    """
    chosen: list[AnyTask] = []
    left_out: dict[str, str] = {}
    for task in app.tasks:
        missing = [name for name in _needed(task) if name not in inputs]
        try:
            check_trainable(task)
        except TrainingError as problem:
            left_out[task.name] = str(problem)
        else:
            if missing:
                left_out[task.name] = f"there is no file of {' and '.join(map(repr, missing))}; give it with --data"
            else:
                chosen.append(task)
    if not chosen:
        raise TrainingError(f"no task can be trained: {'; '.join(f'{n}: {why}' for n, why in left_out.items())}")
    return chosen, left_out


def _needed(task: AnyTask) -> list[str]:
    streams = [task.on, *([task.label.stream] if task.label is not None else [])]
    return list(dict.fromkeys(stream.name for stream in streams))
