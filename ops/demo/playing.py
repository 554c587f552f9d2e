"""Plays the demo: producer, workers, learner and view, until the stream has ended and was decided."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ops.demo.heat_maps import FOLDER, write_heat_maps
from ops.demo.stage import APP, DEMO, STREAMS, Stage, set_up
from ops.runner import AppRunner
from ops.views import live_words
from ops.views.live_app import AppFigures, Pictures
from ops.views.live_show import Show, stopping_on_signals

SECONDS = 60.0
SECONDS_MIN = 20.0
START_TO_END_S = 100.0  # the whole command, compilation of kernels included, has two minutes
AROUND_S = 18.0  # for making the streams, for the last events, and for the end
SETTLE_S = 1.0  # for the learner, after the last event
BEHIND_S = 10.0  # a machine that cannot keep up gets this long for what is left
LABELS_PER_SNAPSHOT = 2_000


@dataclass(frozen=True)
class Played:
    """How it went, in words."""

    summary: list[tuple[str, str]]


def seconds_left(spent_s: float) -> float:
    """Return how long the demo plays if this much of its two minutes went into compilation.

    >>> seconds_left(0.5), seconds_left(45), seconds_left(300)
    (60.0, 37.0, 20.0)
    """
    return max(min(SECONDS, START_TO_END_S - AROUND_S - spent_s), SECONDS_MIN)


def play(folder: Path, seconds: float, speed: float | None, plain: bool) -> Played:
    """Play for about that long in a new folder; Ctrl-C ends it early.

    Raises:
        ValueError: the folder is in use, or something in it cannot be written.
    """
    stage = set_up(folder, seconds, speed)
    figures = AppFigures(stage.app, stage.log, stage.tokeniser)
    began_s = time.monotonic()

    def elapsed_s() -> float:
        return time.monotonic() - began_s

    publish_every = max(100, min(LABELS_PER_SNAPSHOT, int(seconds * 30)))
    try:
        with AppRunner(
            stage.app, stage.log, stage.registry, folder, stage.tokeniser, stage.sealer,
            on_step=lambda step: figures.add(step, elapsed_s()), publish_every=publish_every,
        ) as runner:  # fmt: skip
            pictures = _pictures(figures, runner, stage, elapsed_s)
            ending = _Ending(stage, runner, seconds)
            began_s = time.monotonic()
            stage.producer.start()
            with stopping_on_signals(runner.stop), Show(pictures, "pelton demo", plain, ending.look):
                runner.run()
            stage.producer.stop()
            last = pictures()
        write_heat_maps(stage.app.name, stage.log, folder)
    finally:
        stage.close()
    return Played(live_words.summary_of(last))


def _pictures(
    figures: AppFigures, runner: AppRunner, stage: Stage, elapsed_s: Callable[[], float]
) -> Callable[[], Pictures]:
    def pictures() -> Pictures:
        problem = stage.producer.problem
        stopped = (f"the producer stopped: {problem}",) if problem is not None else ()
        return figures.pictures(elapsed_s(), runner.learned, (*stopped, *runner.problems))

    return pictures


class _Ending:
    """Decides when the demo is over: all is appended and decided, and the learner had a moment; or time is up."""

    def __init__(self, stage: Stage, runner: AppRunner, seconds: float) -> None:
        self._stage, self._runner, self._seconds = stage, runner, seconds
        self._done_s: float | None = None

    def look(self, pictures: Pictures) -> None:
        """Look at the pictures, and stop the runner if those were the last."""
        elapsed_s = pictures[0].elapsed_s
        if elapsed_s > self._seconds + 1:
            self._stage.producer.stop()
        if elapsed_s > self._seconds + BEHIND_S:
            self._runner.stop()
        if not self._stage.producer.is_done:
            return
        taken = {name: counts["taken"] for picture in pictures for name, counts in picture.ledgers.items()}
        if any(taken.get(name, 0) < count for name, count in self._stage.producer.appended.items()):
            return
        if self._done_s is None:
            self._done_s = elapsed_s
        elif elapsed_s - self._done_s >= SETTLE_S:
            self._runner.stop()


def what_next(kept: Path | None) -> list[str]:
    """Return three commands to go on with, which work as they are."""
    if kept is None:
        return [
            "pelton demo --keep first-look",
            "pelton simulate --out data",
            f"pelton replay {near(APP)} --input data/payments.jsonl data/frauds.jsonl --output decisions.csv",
        ]
    app = kept / DEMO.name
    inputs = " ".join(f"{kept}/{name}.jsonl" for name in STREAMS)
    return [
        f"pelton models list --data-folder {kept}",
        f"pelton dlq list {app} --data-folder {kept}",
        f"pelton verify {app} --input {inputs} --data-folder {kept}",
    ]


def where_to_look(kept: Path | None) -> str | None:
    """Say where the heat maps are, if they were kept and there are any."""
    if kept is None or not (kept / FOLDER).exists():
        return None
    count = len(list((kept / FOLDER).glob("*.png")))
    return f"{count} photographs with heat map and mask are in {kept / FOLDER}"


def near(path: Path) -> Path:
    """Return a path as seen from here, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
