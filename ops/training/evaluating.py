"""From dates, as far as they are given, to an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from connectors.files import FileInput
from connectors.secrets import Tokeniser
from models.bundle import Bundle
from ops.progress import Progress
from ops.training.contents import Contents, read_contents
from ops.training.found import EvaluationError, EvaluationSettings, notes_on
from ops.training.joint_training import content_lesson
from ops.training.protocol import DAY_MS, Protocol
from ops.training.training import check_trainable, train_lessons
from pipeline.app import App
from pipeline.dataset import Dataset
from pipeline.defects import DefectTask
from pipeline.support import SupportTask

TEST_SHARE = 0.3  # of the time that the history spans, where no test is given


@dataclass(frozen=True)
class Days:
    """The days that were asked for, milliseconds since the epoch; None where the history decides.

    Without a test it is the last 30 % of the history, from a midnight on if that is days; without an end it goes to the
    last labelled event.
    """

    train_start_ms: int | None = None
    train_end_ms: int | None = None
    test_start_ms: int | None = None
    test_end_ms: int | None = None
    exclude_compromised: bool = False
    compromised_since_ms: int | None = None

    def protocol(self, data: Dataset) -> Protocol:
        """Return the protocol for a history.

        Raises:
            ProtocolError: the days do not fit.
            EvaluationError: the history has no label.
        """
        times_ms = data.times_ms[np.isfinite(data.labels)]
        if not times_ms.size:
            raise EvaluationError("no event of the history has a label; give the file of labels too")
        first_ms, end_ms = int(times_ms.min()), int(times_ms.max()) + 1
        start_ms = self.test_start_ms if self.test_start_ms is not None else self.train_end_ms
        if start_ms is None:
            share_ms = round(TEST_SHARE * (end_ms - first_ms))
            start_ms = end_ms - share_ms
            if share_ms > 2 * DAY_MS:
                start_ms -= start_ms % DAY_MS
        return Protocol(
            start_ms, self.test_end_ms if self.test_end_ms is not None else end_ms, self.train_start_ms,
            self.train_end_ms, self.exclude_compromised, self.compromised_since_ms,
        )  # fmt: skip


@dataclass(frozen=True)
class ContentTest:
    """What a bundle on texts or images is judged by.

    Attributes:
        bundle: that is judged.
        test: what it is judged by, all with labels.
        learned: what it could have learned from; for baselines.
        notes: see `ops.training.found.Found`.
    """

    bundle: Bundle
    test: Contents
    learned: Contents
    notes: tuple[str, ...]


def content_test(
    app: App,
    task: SupportTask | DefectTask,
    inputs: Mapping[str, FileInput],
    days: Days,
    out_dir: Path,
    bundle: Bundle | None,
    settings: EvaluationSettings,
    progress: Progress,
    tokeniser: Tokeniser | None,
) -> ContentTest:
    """Read the history, decide the days, and train a bundle as of the test's begin if none is given.

    The test is the last 30 % of the time, if no days are given, and all of it where there is nothing to learn.

    Raises:
        ValueError: there is nothing to judge, or nothing can be trained; one sentence.
    """
    check_trainable(task)
    if task.label is None:
        raise EvaluationError(f"task {task.name!r} has no label to compare with; give it intent= or article=")
    contents = read_contents(app, task, inputs, tokeniser, progress)
    what = "message" if isinstance(task, SupportTask) else "image"
    if not len(contents):
        raise EvaluationError(f"task {task.name!r} has no {what} to judge")
    start_ms = days.test_start_ms if days.test_start_ms is not None else days.train_end_ms
    if start_ms is None:
        first, last = int(contents.times_ms.min()), int(contents.times_ms.max())
        learns = isinstance(task, DefectTask) or task.intent is not None
        start_ms = first + int((last - first) * (1 - TEST_SHARE)) if learns else first
    until_ms = min(start_ms, days.train_end_ms) if days.train_end_ms is not None else start_ms
    out_dir.mkdir(parents=True, exist_ok=True)
    if bundle is None:
        wanted = replace(settings.training, start_ms=days.train_start_ms, until_ms=until_ms)
        lesson = content_lesson(contents, task, wanted, progress)
        bundle = train_lessons([lesson], out_dir, progress)[task.name].bundle
    test = contents.known(start_ms, None)
    if days.test_end_ms is not None:
        test = test.where(test.times_ms < days.test_end_ms)
    if not len(test):
        raise EvaluationError(f"no {what} of the test has a label; choose other days, or give the file of labels")
    learned = contents.known(days.train_start_ms, until_ms)
    return ContentTest(bundle, test, learned, notes_on(bundle, start_ms))
