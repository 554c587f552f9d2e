"""History as a model sees it: features replayed by the engine, labels with the moment at which they became known."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from connectors.files import FileInput
from connectors.secrets import Tokeniser
from ops.progress import Progress, Stage, silent
from pipeline.app import App, Task
from pipeline.dataset import Dataset, collect
from pipeline.plan import StreamPlan
from pipeline.recovery import streams_of
from pipeline.replay import Replay

SETTLED_SHARE = 0.9  # of the labels of either class: younger events are mostly of the class that is reported first
NEVER_MS = int(np.iinfo(np.int64).max)


def read_history(
    app: App,
    task: Task,
    inputs: Mapping[str, FileInput],
    since_ms: int | None = None,
    tokeniser: Tokeniser | None = None,
    progress: Progress = silent,
) -> Dataset:
    """Replay files and keep the task's features and labels of the events from `since_ms` on.

    Earlier events only fill the windows. Memory: 8 bytes per kept event and feature, and the engine's state.

    Raises:
        ValueError: an input is missing or of no stream, sensitive fields without a key, or a task without label.
    """
    plan = app.plans[task.on.name]
    with replaying(plan, inputs, tokeniser, progress) as (replay, step):
        data = collect(task, plan, replay, since_ms, step)
    progress(Stage("replay", 1, 1, f"{len(data):,} events"))
    return data


@contextmanager
def replaying(
    plan: StreamPlan, inputs: Mapping[str, FileInput], tokeniser: Tokeniser | None, progress: Progress
) -> Iterator[tuple[Replay, Callable[[], None]]]:
    """Replay those of the files that are of a plan's streams; call the second after each commit, to tell how far it is.

    Raises:
        ValueError: the decided stream has no file, or sensitive fields without a key.
    """
    own = {name: inputs[name] for name in streams_of(plan) if name in inputs}
    total = max(sum(each.bytes_total for each in own.values()), 1)
    with Replay(plan, own, tokeniser) as replay:
        yield replay, lambda: progress(Stage("replay", sum(each.bytes_read for each in own.values()), total))


def as_known(data: Dataset, until_ms: int | None) -> Dataset:
    """Return what someone at `until_ms` could have learned from: labelled events, in log order.

    That is: the event happened and its label was known before then. If one class is reported sooner than the other,
    the newest labelled events are all of that class; so events are left out that are younger than the time within
    which nine in ten labels of each class came. Without `until_ms`, everything that the files say is known.
    """
    labelled = np.isfinite(data.labels)
    if until_ms is None:
        return data.where(labelled)
    labelled &= (data.times_ms < until_ms) & (data.known_ms < until_ms)
    delays_ms = data.known_ms[labelled] - data.times_ms[labelled]
    labels = data.labels[labelled]
    slowest_ms = max(
        (float(np.quantile(delays_ms[labels == label], SETTLED_SHARE)) for label in (0, 1) if (labels == label).any()),
        default=0.0,
    )
    return data.where(labelled & (data.times_ms < until_ms - slowest_ms))


def only_between(data: Dataset, start_ms: int | None, end_ms: int | None) -> Dataset:
    """Return the events with start <= time < end; None is no limit."""
    return data.between(start_ms if start_ms is not None else -NEVER_MS, end_ms if end_ms is not None else NEVER_MS)
