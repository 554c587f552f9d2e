"""A search for better settings before the training: some trials, each judged by the held-back part alone.

That part already chooses the best epoch, thresholds and calibration; test data are never looked at. What the search
finds looks better there than it is, the more so the more trials there are: `pelton evaluate` says what it is worth.

The first trial is the usual settings. The others are proposed by a tree-structured Parzen estimator, and one whose
figure is below the median of the trials before it, at the same epoch, ends early. The study is in an SQLite file; what
a trial is proposed from is a function of the seed and the trials before, so an interrupted search, resumed, tries the
same settings as one that was not. A trial that was cut off begins anew.

Sources: Bergstra et al. 2011 (NeurIPS, "Algorithms for hyper-parameter optimization"), section 4; Golovin et al. 2017
(KDD, doi:10.1145/3097983.3098043), section 3.2.1, for the median rule; both as Optuna has them.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ops.progress import Progress, Stage
from ops.training.recipes import together
from ops.training.training import Lesson, TrainingError, TrainingSettings, fit_lessons, told_steps
from ops.training.tuning import Choice, Value, common, in_words

if TYPE_CHECKING:
    from models.train.joint import Progress as NetworkProgress

SEARCH_FOLDER = "search"  # in the output folder: the study, its report and plots, the trials' checkpoints
STUDY_FILE, STUDY = "study.db", "pelton"
PRUNED_FROM_SHARE, PRUNED_FROM_MIN = 0.25, 2  # of the epochs: before, the rate rises and figures say little
UNPRUNED_TRIALS = 4  # that run to their end before any is compared with the median
TABLE_ROWS = 8
RANDOM_TRIALS = 5  # before the estimator proposes: below, there is nothing to estimate from


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: from 1, in the order in which they were tried; the first is the usual settings.
        values: of the settings.
        figure: the best of its epochs, by the held-back part; None if it failed.
        epochs: that were validated.
        ended: "whole", "pruned" or "failed".
        seconds: that it took.
    """

    number: int
    values: dict[str, Value]
    figure: float | None
    epochs: int
    ended: str
    seconds: float


@dataclass(frozen=True)
class SearchFound:
    """What a search found.

    Attributes:
        trials: all of them.
        best: the whole one with the best figure.
        figure_name: what it was judged by.
        study: file of the study.
        report_path: the report as JSON.
        plots: what was drawn, by name.
    """

    trials: tuple[Trial, ...]
    best: Trial
    figure_name: str
    study: Path
    report_path: Path
    plots: dict[str, Path]

    def ranked(self) -> list[Trial]:
        """Return the trials, the best first; those that ended early behind those that did not."""
        return sorted(self.trials, key=lambda each: (each.ended != "whole", -(each.figure or 0.0), each.number))

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Return headers and rows of the best trials, for people."""
        names = list(self.best.values)
        rows: list[list[object]] = [
            [each.number, "-" if each.figure is None else f"{each.figure:.4f}", each.epochs, each.ended,
             *(f"{each.values[name]:.3g}" for name in names)]
            for each in self.ranked()[:TABLE_ROWS]
        ]  # fmt: skip
        return ["trial", self.figure_name, "epochs", "ended", *names], rows

    def provenance(self) -> dict[str, str | int | float | None]:
        """Return what a bundle says of it."""
        told: dict[str, str | int | float | None] = {
            "search_study": f"{SEARCH_FOLDER}/{STUDY_FILE}", "search_trials": len(self.trials),
            "search_best_trial": self.best.number, "search_best_figure": self.best.figure,
            "search_usual_figure": self.trials[0].figure,
        }  # fmt: skip
        return told | {f"search_{name}": value for name, value in self.best.values.items()}


def search_settings(lessons: Sequence[Lesson], out_dir: Path, network: Path, progress: Progress) -> SearchFound:
    """Try settings for lessons, tune them by the best, and leave its trial's checkpoint in the folder of the network.

    Args:
        lessons: that learn a network together.
        out_dir: the study goes to `out_dir`/search.
        network: the folder of the network; what is there and not the best trial's is removed.
        progress: told often; what it raises ends the search, which can then be resumed.

    Raises:
        TrainingError: a study is there and `resume` was not asked for, it is of other data or settings, or every trial
            failed.
    """
    from ops.training.search_report import write_search_report

    search = _Search(lessons, out_dir / SEARCH_FOLDER, progress)
    while search.done < search.trials:
        search.try_one()
    best = search.best()
    for lesson in lessons:
        lesson.tune(_own(lesson, lessons, best.values))
    took = search.folder_of(best.number)
    if not _same_checkpoint(took, network):
        shutil.rmtree(network, ignore_errors=True)
        shutil.copytree(took, network)
    trials = search.found()
    name = " and ".join(dict.fromkeys(each.data.figure.replace("_", " ") for each in lessons if each.data is not None))
    report_path, plots = write_search_report(search.folder, search.study, trials, best, name, search.space)
    last = f"trial {best.number} of {len(trials)} is the best, {name} {best.figure:.4f}: {in_words(best.values)}"
    progress(Stage("search", 1, 1, last))
    return SearchFound(tuple(trials), best, name, search.folder / STUDY_FILE, report_path, plots)


class _Search:
    """A study under way."""

    def __init__(self, lessons: Sequence[Lesson], folder: Path, progress: Progress) -> None:
        self.lessons, self.folder, self.progress = lessons, folder, progress
        self.settings: TrainingSettings = lessons[0].settings
        self.trials = self.settings.trials
        self.space = _space(lessons)
        folder.mkdir(parents=True, exist_ok=True)
        epochs = together({each.task.name: each.recipe for each in lessons if each.recipe is not None})[0].epochs
        first = max(PRUNED_FROM_MIN, math.ceil(epochs * PRUNED_FROM_SHARE))
        self.study = _opened(folder / STUDY_FILE, _identity(lessons, self.space), self.settings.resume, first)
        self._take_up()

    @property
    def done(self) -> int:
        """How many trials ended."""
        return len(self.found())

    def found(self) -> list[Trial]:
        """Return the trials that ended, in their order."""
        ended = [each for each in self.study.get_trials(deepcopy=False) if "number" in each.user_attrs]
        return [Trial(each.user_attrs["number"], dict(each.params), each.user_attrs["figure"],
                      each.user_attrs["epochs"], each.user_attrs["ended"], each.user_attrs["seconds"])
                for each in ended]  # fmt: skip

    def best(self) -> Trial:
        """Return the best of the trials that ran to their end."""
        whole = [each for each in self.found() if each.ended == "whole" and each.figure is not None]
        if not whole:
            raise TrainingError(
                f"none of {self.done} trials could be trained to its end: the loss of each became infinite; "
                "look at the features, or train without --search"
            )
        return max(whole, key=lambda each: (each.figure, -each.number))

    def folder_of(self, number: int) -> Path:
        """Return the folder of a trial's network."""
        return self.folder / f"trial-{number:04d}"

    def _take_up(self) -> None:
        """Begin with the usual settings; try again what was cut off."""
        everything = self.study.get_trials(deepcopy=False)
        if not everything:
            self.study.enqueue_trial({name: choice.usual for name, choice in self.space.items()})
        for each in (each for each in everything if not each.state.is_finished() and each.params):
            told = each.user_attrs
            if "number" in told:  # it had ended, and only that was not noted
                self.study.tell(each.number, told["figure"] if told["ended"] == "whole" else None,
                                state=_states()[told["ended"]])  # fmt: skip
                continue
            self.study.tell(each.number, state=_states()["failed"])
            self.study.enqueue_trial(each.params)

    def try_one(self) -> None:
        """Train a network by proposed settings, note how good it became, and keep its folder if it is the best."""
        import optuna

        from models.train.joint import DivergedError

        number = self.done + 1
        # a sampler of its own for each trial: a resumed search proposes what an uninterrupted one does
        seed = int(np.random.SeedSequence([self.settings.seed, number]).generate_state(1)[0])
        self.study.sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed)
        trial = self.study.ask()
        values = {name: choice.ask(trial, name) for name, choice in self.space.items()}
        for lesson in self.lessons:
            lesson.tune(_own(lesson, self.lessons, values))
        began, folder, seen = time.perf_counter(), self.folder_of(number), list[float]()
        shutil.rmtree(folder, ignore_errors=True)
        ended = "whole"
        try:
            fit_lessons(self.lessons, folder, self._telling(trial, number, seen), resume=False)
        except optuna.TrialPruned:
            ended = "pruned"
        except DivergedError:
            ended = "failed"
        figure = max(seen, default=None) if ended != "failed" else None
        for name, told in (
            ("figure", figure), ("epochs", len(seen)), ("ended", ended),
            ("seconds", round(time.perf_counter() - began, 1)), ("number", number),
        ):  # fmt: skip
            trial.set_user_attr(name, told)
        self.study.tell(trial.number, figure if ended == "whole" else None, state=_states()[ended])
        best = max((each for each in self.found() if each.ended == "whole"), key=_rank, default=None)
        for each in range(1, number + 1):
            if best is None or each != best.number:
                shutil.rmtree(self.folder_of(each), ignore_errors=True)

    def _telling(self, trial: Any, number: int, seen: list[float]) -> Any:
        """Return what shows the steps of a trial, and ends it after an epoch that is below the median."""
        import optuna

        def show(done: float, total: float, note: str) -> None:
            self.progress(Stage("search", number - 1 + done / total, self.trials, f"trial {number}: {note}"))

        steps = told_steps(self.lessons, show)

        def told(step: NetworkProgress) -> None:
            steps(step)
            if step.judged > len(seen):
                seen.append(float(np.mean(list(step.figures.values()))))
                trial.report(seen[-1], step.judged)
                if step.judged < step.epochs and trial.should_prune():
                    raise optuna.TrialPruned

        return told


def _states() -> dict[str, Any]:
    from optuna.trial import TrialState

    return {"whole": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def _rank(trial: Trial) -> tuple[float, int]:
    return (trial.figure if trial.figure is not None else -1.0, -trial.number)


def _space(lessons: Sequence[Lesson]) -> dict[str, Choice]:
    """Return what is tried: what any network has, and what each task has of its own."""
    recipe, _ = together({each.task.name: each.recipe for each in lessons if each.recipe is not None})
    found = common(recipe)
    if len(lessons) > 1:
        del found["experts"]  # common and private ones, shared out by the recipe
    for lesson in lessons:
        begin = f"{lesson.task.name}." if len(lessons) > 1 else ""
        found |= {begin + name: choice for name, choice in lesson.space().items()}
    return found


def _own(lesson: Lesson, lessons: Sequence[Lesson], values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the values that are a lesson's: common ones, and those under its name."""
    begin = f"{lesson.task.name}."
    own = {name.removeprefix(begin): value for name, value in values.items() if name.startswith(begin)}
    return {name: value for name, value in values.items() if "." not in name} | own


def _identity(lessons: Sequence[Lesson], space: Mapping[str, Choice]) -> str:
    """Return a hash of what makes trials comparable: data, limits, and what is not searched for."""
    settings = lessons[0].settings
    told = {
        "tasks": {its.task.name: [its.data.identity(), str(its.recipe)] for its in lessons if its.data is not None},
        "space": {name: str(choice) for name, choice in space.items()}, "seed": settings.seed,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _opened(path: Path, identity: str, resume: bool, pruned_from: int) -> Any:
    """Open the study, or begin it; no trial ends before epoch `pruned_from`."""
    import optuna
    from sqlalchemy import URL

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if path.exists() and not resume:
        raise TrainingError(f"{path} holds a search; go on with it by --resume, or choose another --out")
    url = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS, n_warmup_steps=pruned_from)
    study = optuna.create_study(
        storage=url, study_name=STUDY, direction="maximize", pruner=pruner, load_if_exists=True
    )  # fmt: skip
    if study.user_attrs.setdefault("identity", identity) != identity:
        raise TrainingError(
            f"{path} is a search on other data or with other settings; resume it with those, or choose another --out"
        )
    study.set_user_attr("identity", identity)
    return study


def _same_checkpoint(one: Path, other: Path) -> bool:
    from models.train.checkpoint import MANIFEST
    from models.train.joint import CHECKPOINT

    files = [folder / CHECKPOINT / MANIFEST for folder in (one, other)]
    return all(file.is_file() for file in files) and files[0].read_bytes() == files[1].read_bytes()
