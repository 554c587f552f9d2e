"""What a search found, as a file and as plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops.training.figure_files import save_figure
from ops.training.tuning import Choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ops.training.searching import Trial

REPORT = "search_report.json"
TRIALS_FOR_IMPORTANCE = 4  # below, nothing can be said about what mattered
_COLOURS = {"whole": "tab:blue", "pruned": "tab:gray"}


def write_search_report(
    folder: Path, study: Any, trials: Sequence[Trial], best: Trial, figure_name: str, space: Mapping[str, Choice]
) -> tuple[Path, dict[str, Path]]:
    """Write search_report.json and the plots into a folder; return their paths."""
    importances = _importances(study)
    report = {
        "figure": figure_name, "best_trial": best.number, "best": best.values, "best_figure": best.figure,
        "usual_figure": trials[0].figure, "importances": importances,
        "space": {name: asdict(choice) for name, choice in space.items()},
        "trials": [asdict(trial) for trial in trials],
    }  # fmt: skip
    path = folder / REPORT
    path.write_text(json.dumps(report, indent=1) + "\n")
    plots = {
        "history": save_figure(
            folder / "search_history.png", f"{len(trials)} trials, judged by the held-back part", (7, 4),
            lambda figure: _history(figure, trials, figure_name),
        ),
        "values": save_figure(
            folder / "search_values.png", "What was tried", (3 * len(space), 3),
            lambda figure: _values(figure, trials, figure_name, space),
        ),
    }  # fmt: skip
    if importances:
        plots["importances"] = save_figure(
            folder / "search_importances.png", "What mattered (fANOVA)", (6, 3),
            lambda figure: _bars(figure, importances),
        )  # fmt: skip
    return path, plots


def _importances(study: Any) -> dict[str, float]:
    """Return which part of the differences between whole trials each setting explains; nothing from too few.

    Source: Hutter, Hoos, Leyton-Brown 2014 (ICML, "An efficient approach for assessing hyperparameter importance").
    """
    import optuna

    whole = [each for each in study.get_trials(deepcopy=False) if each.state == optuna.trial.TrialState.COMPLETE]
    if len(whole) < TRIALS_FOR_IMPORTANCE or len({each.value for each in whole}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: round(float(share), 4) for name, share in found.items()}


def _history(figure: Figure, trials: Sequence[Trial], figure_name: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    for ended, colour in _COLOURS.items():
        its = [(each.number, each.figure) for each in trials if each.ended == ended and each.figure is not None]
        axes.plot([number for number, _ in its], [its_figure for _, its_figure in its], "o", color=colour, label=ended)
    whole = [each for each in trials if each.ended == "whole" and each.figure is not None]
    best, line = 0.0, []
    for each in whole:
        best = max(best, each.figure or 0.0)
        line.append(best)
    numbers = [each.number for each in whole]
    axes.step([*numbers, len(trials)], [*line, best], where="post", color="tab:orange", label="best so far")
    if trials[0].figure is not None:
        axes.axhline(trials[0].figure, linestyle=":", color="black", label="usual settings")
    axes.set(xlabel="trial", ylabel=figure_name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)


def _values(figure: Figure, trials: Sequence[Trial], figure_name: str, space: Mapping[str, Choice]) -> None:
    from matplotlib.ticker import NullFormatter

    row = figure.subplots(1, len(space), sharey=True, squeeze=False)[0]
    for axes, (name, choice) in zip(row, space.items(), strict=True):
        for ended, colour in _COLOURS.items():
            its = [(each.values[name], each.figure) for each in trials if each.ended == ended]
            shown = [(value, its_figure) for value, its_figure in its if its_figure is not None]
            axes.plot([value for value, _ in shown], [its_figure for _, its_figure in shown], "o", color=colour)
        axes.set(xlabel=name.replace("_", " "))
        if choice.log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        if choice.among:
            axes.set_xticks(choice.among)
    row[0].set(ylabel=figure_name)


def _bars(figure: Figure, importances: Mapping[str, float]) -> None:
    axes = figure.subplots()
    names = [name.replace("_", " ") for name in importances]
    axes.barh(names[::-1], list(importances.values())[::-1])
    axes.set(xlabel="share of the differences that it explains")
