"""From dates, as far as they are given, to an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from connectors.files import FileInput
from connectors.secrets import Tokeniser
from models.bundle import Bundle
from ops.progress import Progress
from ops.training.evaluation import Evaluation, EvaluationError, EvaluationSettings, evaluate_on
from ops.training.history import read_history
from ops.training.protocol import DAY_MS, Protocol
from ops.training.training import check_trainable
from pipeline.app import App, Task
from pipeline.dataset import Dataset

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


def evaluate_files(
    app: App,
    task: Task,
    inputs: Mapping[str, FileInput],
    days: Days,
    out: Path,
    bundle: Bundle | None,
    settings: EvaluationSettings,
    progress: Progress,
    tokeniser: Tokeniser | None,
) -> Evaluation:
    """Read the history, decide the days and evaluate; see `ops.training.evaluation.evaluate`.

    Raises:
        ValueError: as `evaluate`, in one sentence.
    """
    check_trainable(task)
    if days.exclude_compromised and task.entity is None:
        raise EvaluationError(
            f'task {task.name!r} has no entity whose victims could be left out; give it entity="card"'
        )
    data = read_history(app, task, inputs, days.train_start_ms, tokeniser, progress)
    return evaluate_on(data, task, days.protocol(data), out, bundle, settings, progress)
