"""A training with pruning, end to end: the served graph is smaller, and each cycle is told."""

import json

import pytest

from models.scorer import MOE, Scorer
from ops.simulate import SimulationSettings, simulate
from ops.training.event_training import train_on
from ops.training.history import read_history
from ops.training.inspecting import inspect_bundle
from ops.training.training import TrainingError, TrainingSettings
from pipeline import App, Task
from tests.ops.bank_streams import card, frauds, inputs, of_card, payments

features = of_card | {"places_24h": card.last("24h").distinct("place")}
risk = Task("risk", on=payments, features=features, label=frauds.is_fraud, entity="card")
app = App("bank", [risk])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("stream")
    simulate(SimulationSettings(days=10, events_per_day=800, cards=150, terminals=40, fraud_rate=0.05, seed=3), out)
    return out


@pytest.fixture(scope="module")
def history(folder):
    return read_history(app, risk, inputs(folder))


def test_pruning_makes_the_served_graph_smaller_and_tells_each_cycle(history, tmp_path):
    settings = TrainingSettings(quick=True, prune=True, prune_tolerance=0.02)
    made = train_on(history, risk, settings, tmp_path)
    assert made.pruning[0].pruned == 0
    assert made.pruning[1].pruned == 0.4
    good = [each for each in made.pruning if each.is_good]
    assert all(each.figure >= made.pruning[0].figure - 0.02 for each in good)
    assert len(made.bundle.part(MOE)) == good[-1].size_bytes
    assert [each.size_bytes for each in made.pruning] == sorted(
        {each.size_bytes for each in made.pruning}, reverse=True
    )
    width = inspect_bundle(made.bundle).network.settings.expert_width
    assert width == 32 if len(good) == 1 else width < 32
    told = json.loads(made.report_path.read_text())["pruning"]["risk"]
    assert [each["figure"] for each in told] == [each.figure for each in made.pruning]
    assert made.report_path.with_name("risk-pruning.png").stat().st_size > 1000
    assert Scorer(made.bundle, None, history.specs).rung == "moe+ftrl"


def test_a_tolerance_that_is_none_is_told():
    with pytest.raises(TrainingError, match=r"the tolerance is 1\.5; give what may be lost, such as 0\.002"):
        TrainingSettings(prune=True, prune_tolerance=1.5)
