"""`pelton train --search`: trials really run, the best by the held-back part is trained, a killed search goes on."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from models.bundle import read_bundle
from ops.inputs import open_inputs
from ops.simulate import SimulationSettings, simulate
from ops.simulate.messages import MessageSettings, simulate_messages
from ops.simulate.photos import PhotoSettings, simulate_photos
from ops.training.joint_training import train_together
from ops.training.searching import SearchFound, Trial, _opened
from ops.training.training import TrainingError, TrainingSettings
from ops.training.tuning import Choice
from pipeline import App, Task
from pipeline.loading import load_app
from tests.ops.bank_streams import frauds, inputs, of_card, payments
from tests.ops.test_training_of_kinds import APP

pytestmark = pytest.mark.timeout(300)  # several trainings, on a machine that others use
ROOT = Path(__file__).parents[2]
risk = Task("risk", on=payments, features=of_card, label=frauds.is_fraud, learner=None, entity="card")
bank = App("bank", [risk])
WANTED = TrainingSettings(quick=True, trials=3, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with payments.jsonl and frauds.jsonl of 6 days."""
    out = tmp_path_factory.mktemp("stream")
    settings = SimulationSettings(days=6, events_per_day=500, cards=80, fraud_rate=0.06, drift=False, seed=3)
    simulate(settings, out)
    return out


def train(folder, out, settings=WANTED, progress=lambda stage: None):
    return train_together(bank, [risk], inputs(folder), settings, out, progress)["risk"]


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Return the bundle of a search, the stages it told of, and where everything is."""
    stages, out = [], tmp_path_factory.mktemp("out")
    return train(folder, out, progress=stages.append), stages, out


def tried(found: SearchFound) -> list[dict]:
    """Return the trials but for how long they took."""
    return [asdict(replace(each, seconds=0.0)) for each in found.trials]


def test_the_best_trial_by_the_held_back_part_is_what_is_trained(trained):
    made, _, out = trained
    found = made.search
    assert [each.number for each in found.trials] == [1, 2, 3]
    whole = [each for each in found.trials if each.ended == "whole"]
    assert found.best.figure == max(each.figure for each in whole)
    assert found.ranked()[0] == found.best
    report = json.loads((out / "network" / "training_report.json").read_text())
    assert report["score"] == found.best.figure
    assert report["training"]["learning_rate"] == found.best.values["learning_rate"]
    assert report["training"]["weight_decay"] == found.best.values["weight_decay"]
    for size in ("width", "experts", "dropout", "input_dropout"):
        assert report["sizes"][size] == found.best.values[size]
    assert json.loads(read_bundle(made.folder).parts["training.json"])["sizes"] == report["sizes"]
    assert made.metrics["held_back.moe.average_precision"] == pytest.approx(found.best.figure, abs=1e-4)


def test_the_first_trial_is_the_usual_settings_and_the_others_differ(trained, folder, tmp_path):
    first, *others = trained[0].search.trials
    usual = {"learning_rate": 2e-3, "weight_decay": 0.05, "dropout": 0.05, "width": 32, "experts": 4}
    assert first.values == usual | {"input_dropout": 0.02}
    assert len({each.values["learning_rate"] for each in others} | {2e-3}) == 3
    train(folder, tmp_path, replace(WANTED, trials=0))
    report = json.loads((tmp_path / "network" / "training_report.json").read_text())
    assert report["score"] == first.figure


def test_provenance_names_study_trials_and_values(trained):
    made, _, _ = trained
    told, best = made.bundle.meta.provenance, made.search.best
    assert told["search_study"] == "search/study.db"
    assert (told["search_trials"], told["search_best_trial"]) == (3, best.number)
    assert (told["search_best_figure"], told["search_usual_figure"]) == (best.figure, made.search.trials[0].figure)
    assert {name: told[f"search_{name}"] for name in best.values} == best.values


def test_progress_is_one_stage_that_says_which_trial(trained):
    _, stages, _ = trained
    of_search = [stage for stage in stages if stage.name == "search"]
    assert [stage.name for stage in stages].index("search") < [stage.name for stage in stages].index("network")
    done = [stage.done for stage in of_search[:-1]]
    assert done == sorted(done)
    assert {stage.total for stage in of_search[:-1]} == {3}
    assert of_search[0].note.startswith("trial 1: epoch 1 of 2, loss ")
    assert "is the best, average precision 0." in of_search[-1].note


def test_report_and_plots_are_written_and_only_the_best_network_is_kept(trained):
    made, _, out = trained
    report = json.loads(made.search.report_path.read_text())
    assert report["best_trial"] == made.search.best.number
    assert [each["figure"] for each in report["trials"]] == [each.figure for each in made.search.trials]
    assert set(made.search.plots) >= {"history", "values"}
    for path in made.search.plots.values():
        assert path.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (out / "search").glob("trial-*")] == [f"trial-{made.search.best.number:04d}"]
    with sqlite3.connect(out / "search" / "study.db") as study:
        assert study.execute("select count(*) from trials").fetchone() == (3,)
    headers, rows = made.search.table()
    assert headers[:4] == ["trial", "average precision", "epochs", "ended"]
    assert rows[0][:2] == [made.search.best.number, f"{made.search.best.figure:.4f}"]


def kill_in_second_trial(folder: str, out: str) -> None:
    """Be killed in the second epoch of the second trial; runs in a process of its own."""

    def progress(stage):
        if stage.name == "search" and stage.note.startswith("trial 2: epoch 2"):
            os.kill(os.getpid(), signal.SIGKILL)

    train(Path(folder), Path(out), progress=progress)


def test_a_killed_search_goes_on_as_if_it_had_not_been(trained, folder, tmp_path):
    told = f"from tests.ops.test_searching import *; kill_in_second_trial({str(folder)!r}, {str(tmp_path)!r})"
    killed = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with pytest.raises(TrainingError, match=r"study\.db holds a search; go on with it by --resume, or choose another"):
        train(folder, tmp_path)
    resumed = train(folder, tmp_path, replace(WANTED, resume=True))
    assert tried(resumed.search) == tried(trained[0].search)
    assert resumed.bundle.id == trained[0].bundle.id
    longer = train(folder, tmp_path, replace(WANTED, resume=True, trials=4))
    assert tried(longer.search)[:3] == tried(resumed.search)
    assert len(longer.search.trials) == 4


def test_a_search_is_not_resumed_on_other_data_or_settings(trained, folder):
    _, _, out = trained
    with pytest.raises(TrainingError, match="is a search on other data or with other settings; resume it with those"):
        train(folder, out, replace(WANTED, resume=True, held_back=0.2))


def test_the_best_is_not_one_that_ended_early(tmp_path):
    trials = [
        Trial(number, {"width": 8}, figure, 2, ended, 1.0)
        for number, figure, ended in ((1, 0.5, "whole"), (2, 0.9, "pruned"), (3, 0.6, "whole"), (4, None, "failed"))
    ]
    found = SearchFound(tuple(trials), trials[2], "accuracy", tmp_path, tmp_path, {})
    assert [each.number for each in found.ranked()] == [3, 1, 2, 4]


def test_a_trial_below_the_median_of_four_ends_but_not_in_the_first_epochs(tmp_path):
    import optuna

    study = _opened(tmp_path / "study.db", "one", resume=False, pruned_from=2)
    for figure in (0.5, 0.6, 0.7, 0.8):
        values = {epoch: figure for epoch in (1, 2, 3)}
        study.add_trial(optuna.trial.create_trial(value=figure, intermediate_values=values))
    for figure, ends in ((0.1, True), (0.66, False)):  # the median is 0.65
        trial = study.ask()
        said = []
        for epoch in (1, 2):
            trial.report(figure, epoch)
            said.append(trial.should_prune())
        assert said == [False, ends]


def test_settings_are_asked_within_their_limits():
    import optuna

    trial = optuna.trial.FixedTrial({"width": 96, "rate": 0.01})
    assert Choice(128, among=(64, 96, 128)).ask(trial, "width") == 96
    assert Choice(0.02, 0.005, 0.08, log=True).ask(trial, "rate") == 0.01


@pytest.mark.parametrize(("kind", "own"), [("support", "bag_dropout"), ("defect", "evidence_weight")])
def test_messages_and_photographs_are_searched_too(kind, own, tmp_path):
    (tmp_path / "works.py").write_text(APP)
    loaded = load_app(str(tmp_path / "works.py"))
    if kind == "support":
        simulate_messages(MessageSettings(messages=200, seed=3), tmp_path)
        files = ("messages", "answers")
    else:
        simulate_photos(PhotoSettings(photos=90, size=64, seed=1), tmp_path)
        files = ("photos", "inspections")
    opened = open_inputs(loaded, [str(tmp_path / f"{name}.jsonl") for name in files])
    settings = TrainingSettings(quick=True, epochs=1, trials=2)
    made = train_together(loaded, [loaded.task(kind)], opened, settings, tmp_path / "out")[kind]
    first, second = made.search.trials
    assert first.values[own] != second.values[own]
    assert first.values["smoothing"] == 0.1 != second.values["smoothing"]
    told = json.loads((tmp_path / "out" / "network" / "training_report.json").read_text())["tasks"][kind]
    assert told["choices"]["smoothing"] == made.search.best.values["smoothing"]
    assert made.bundle.meta.provenance["search_trials"] == 2


def test_a_search_without_a_network_is_refused(folder, tmp_path):
    rules = replace(risk, model=None, learner="ftrl")
    with pytest.raises(TrainingError, match="a search needs a network, and none is trained here; leave --search away"):
        train_together(App("bank", [rules]), [rules], inputs(folder), WANTED, tmp_path)
