"""Two tasks of one app trained together: a bundle for each, from a network that shares its trunk."""

import json

import onnx
import pytest

from models.bundle import read_bundle
from models.metrics import roc_auc
from models.scorer import Scorer
from ops.simulate import SimulationSettings, simulate
from ops.training.history import as_known, read_history
from ops.training.inspecting import inspect_bundle
from ops.training.joint_training import train_together, trainable
from ops.training.training import TrainingError, TrainingSettings
from pipeline import App, Task
from tests.ops.bank_streams import frauds, inputs, of_card, payments, terminal

pytestmark = pytest.mark.timeout(400)  # two exports in one fixture, on a machine that others use
of_terminal = {
    "amount": payments.amount,
    "count_1d": terminal.last("1d").count(),
    "rate_3d": terminal.last("3d", delay="1d").rate(frauds.is_fraud),
}
cards = Task("cards", on=payments, features=of_card, label=frauds.is_fraud, entity="card")
terminals = Task("terminals", on=payments, features=of_terminal, label=frauds.is_fraud, learner=None)
rules_only = Task("counts", on=payments, features={"amount": payments.amount}, model=None, learner=None)
app = App("bank", [cards, terminals, rules_only])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with payments.jsonl and frauds.jsonl of 8 days."""
    out = tmp_path_factory.mktemp("stream")
    simulate(
        SimulationSettings(days=6, events_per_day=600, cards=100, terminals=20, fraud_rate=0.05, drift=False, seed=3),
        out,
    )
    return out


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Return bundles by task, the stages that were told of, and where everything is."""
    stages, out = [], tmp_path_factory.mktemp("out")
    files = inputs(folder, payments, frauds)
    settings = TrainingSettings(quick=True)
    return train_together(app, [cards, terminals], files, settings, out, stages.append), stages, out


def test_each_task_has_a_bundle_that_serves(trained, folder):
    made, _, _ = trained
    for task, rung in ((cards, "moe+ftrl"), (terminals, "moe")):
        known = as_known(read_history(app, task, inputs(folder, payments, frauds)), None)
        scorer = Scorer(read_bundle(made[task.name].folder), None, known.specs)
        scores = scorer.score(known.features)
        assert scores.rung == rung
        assert roc_auc(scores.probability, known.labels) > 0.6
        assert made[task.name].bundle.meta.provenance["network_tasks"] == "cards, terminals"


def test_a_bundle_holds_its_own_experts_alone_and_remembers_its_own_training(trained):
    made, _, out = trained
    report = json.loads((out / "network" / "training_report.json").read_text())
    for task, its in made.items():
        model = onnx.load_from_string(its.bundle.parts["moe.onnx"])
        sizes = json.loads({note.key: note.value for note in model.metadata_props}["pelton.sizes"])
        assert sizes["experts"] == len(report["tasks"][task]["experts"]) == 4 < report["sizes"]["experts"] == 5
        told = json.loads(its.bundle.parts["training.json"])
        assert told["tasks"] == ["cards", "terminals"]
        assert told["validation"] == report["validation"][task]
        assert told["epochs"] == report["epochs"]  # with the load of the other tasks, for `pelton models inspect`
        assert told["loads"] == report["epochs"][report["best_epoch"] - 1]["tasks"][task]["loads"]
        assert set(inspect_bundle(its.bundle).loads()[0]) == {"cards", "terminals"}


def test_stages_are_told_by_task_where_they_are_of_one(trained):
    _, stages, _ = trained
    names = list(dict.fromkeys(stage.name for stage in stages))
    assert names == [
        "cards replay", "terminals replay", "network", "cards export", "cards scores", "cards learner",
        "terminals export", "terminals scores",
    ]  # fmt: skip
    last = {stage.name: stage for stage in stages}
    assert all(stage.done == stage.total for stage in last.values())


def test_tasks_that_cannot_be_trained_are_told_with_the_reason(folder):
    chosen, left_out = trainable(app, inputs(folder, payments, frauds))
    assert [task.name for task in chosen] == ["cards", "terminals"]
    assert left_out.keys() == {"counts"}
    assert "has no label" in left_out["counts"]
    with pytest.raises(TrainingError, match=r"no task can be trained: cards: there is no file of 'frauds'; give it"):
        trainable(app, inputs(folder, payments))


def test_the_command_trains_all_tasks_of_an_app(pelton, folder, tmp_path):
    (tmp_path / "bank.py").write_text(APP)
    files = " ".join(str(folder / f"{name}.jsonl") for name in ("payments", "frauds"))
    told = pelton(f"train {tmp_path / 'bank.py'} --data {files} --quick --no-register --out {tmp_path / 'out'}")
    assert "cards learned from" in told.stdout
    assert "terminals learned from" in told.stdout
    assert "counts is left out: task 'counts' has no label" in told.stderr
    assert f"--bundle {tmp_path / 'out'} --task all" in told.stdout
    left_out = pelton(f"train {tmp_path / 'bank.py'} --data {files} --task counts --out {tmp_path}", code=1)
    assert "has no label" in left_out.stderr


APP = """
from pipeline import App, Stream, Task
texts = dict.fromkeys(("card", "terminal", "device", "place", "channel"), "string")
payments = Stream("payments", id="event_id", time="ts", fields={**texts, "amount": "money"})
frauds = Stream("frauds", id="event_id", time="reported_at", fields={"is_fraud": "bool"})
features = {"amount": payments.amount, "count": payments.by("card").last("1h").count()}
app = App("bank", [
    Task("cards", on=payments, features=features, label=frauds.is_fraud, model=None),
    Task("terminals", on=payments, features={"amount": payments.amount}, label=frauds.is_fraud, model=None),
    Task("counts", on=payments, features=features, model=None, learner=None),
])
"""
