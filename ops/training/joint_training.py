"""Several tasks of an app in one training: their networks share a trunk, and each gets a bundle of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from connectors.files import FileInput
from connectors.secrets import Tokeniser
from ops.progress import Progress, Stage, silent
from ops.training.history import as_known, only_between, read_history
from ops.training.network_training import train_networks
from ops.training.training import TrainedBundle, TrainingError, TrainingSettings, check_trainable, train_on
from pipeline.app import App, Task


def train_together(
    app: App,
    tasks: Sequence[Task],
    inputs: Mapping[str, FileInput],
    settings: TrainingSettings,
    out_dir: Path,
    progress: Progress = silent,
    tokeniser: Tokeniser | None = None,
) -> dict[str, TrainedBundle]:
    """Replay history for each task, train those with a network jointly, and write a bundle for each.

    Args:
        app: holds the tasks.
        tasks: with a label, and a model or a learner.
        inputs: stream name -> its files.
        settings: which part of history, how long, which seed.
        out_dir: made if missing; checkpoint, report and plots of the common network go to `out_dir`/network.
        progress: told often, if there are several tasks each one's stages under its name; what it raises ends the
            training, which `resume` can then take up.
        tokeniser: for sensitive fields, with the key that serves.

    Raises:
        ValueError: as `ops.training.training.train_on`.
    """
    histories, seconds = {}, {}
    for task in tasks:
        check_trainable(task)
        started = time.perf_counter()
        histories[task.name] = read_history(
            app, task, inputs, settings.start_ms, tokeniser, _named(progress, task, tasks)
        )
        seconds[task.name] = {"replay": round(time.perf_counter() - started, 2)}
    known = {
        task.name: as_known(only_between(histories[task.name], settings.start_ms, None), settings.until_ms)
        for task in tasks
        if task.model is not None
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    networks = train_networks(known, settings.network, out_dir / "network", progress) if known else {}
    for name in networks:
        seconds[name]["network"] = round(time.perf_counter() - started, 2)
    return {
        task.name: train_on(
            histories[task.name], task, settings, out_dir, _named(progress, task, tasks), seconds[task.name],
            networks.get(task.name),
        )
        for task in tasks
    }  # fmt: skip


def trainable(app: App, inputs: Mapping[str, FileInput]) -> tuple[list[Task], dict[str, str]]:
    """Choose the tasks of an app that can be trained on these files; return them, and why not for each other.

    Raises:
        TrainingError: there is none.
    """
    chosen: list[Task] = []
    left_out: dict[str, str] = {}
    for task in app.tasks:
        if not isinstance(task, Task):
            left_out[task.name] = f"it is trained by itself: pelton train --task {task.name}"
            continue
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


def _needed(task: Task) -> list[str]:
    streams = [task.on, *([task.label.stream] if task.label is not None else [])]
    return list(dict.fromkeys(stream.name for stream in streams))


def _named(progress: Progress, task: Task, tasks: Sequence[Task]) -> Progress:
    """Put a task's name before its stages, if there are several."""
    if len(tasks) == 1:
        return progress

    def tell(stage: Stage) -> None:
        progress(Stage(f"{task.name} {stage.name}", stage.done, stage.total, stage.note))

    return tell
