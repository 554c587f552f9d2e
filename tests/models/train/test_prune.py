"""Pruning takes hidden numbers away for good: the ones that matter least, until a figure falls."""

import dataclasses

import numpy as np
import pytest
import torch

from models.export import export
from models.moe.network import event_network
from models.train.prune import PruneSettings, importance, layers_of, prune, shrink
from models.train.settings import TrainSettings
from models.train.tuning import Tuning
from tests.models.train.test_events import SIZES, SPECS, events, stream

WIDE = dataclasses.replace(SIZES, expert_width=32, shared_width=32)
TUNING = Tuning(1, 5e-4, average_decay=0.95)


@pytest.fixture(scope="module")
def data():
    return events(stream(2000))["risk"]


@pytest.fixture(scope="module")
def network(data, tmp_path_factory):
    from models.train.joint import fit

    settings = TrainSettings(epochs=2, learning_rate=1e-2, device="cpu")
    return fit({"risk": data}, settings, tmp_path_factory.mktemp("run"), sizes=WIDE).network


def logits(network, rows):
    with torch.no_grad():
        return network.logits(torch.from_numpy(rows)).numpy()


def test_numbers_that_say_nothing_go_first_and_nothing_changes(network, data):
    torch.manual_seed(0)
    crippled = event_network(SPECS, WIDE).eval()
    crippled.load_state_dict(network.state_dict())
    dead = torch.randperm(32)[:12]
    with torch.no_grad():
        for experts in layers_of(crippled):
            experts.down[:, dead] = 0.0
            experts.shared_down[dead] = 0.0
    rows = data.data.features[:200]
    before = logits(crippled, rows)
    matters = importance(crippled, data, PruneSettings(0.002, tuning=TUNING))
    assert all((routed[:, dead] == 0).all() and (shared[dead] == 0).all() for routed, shared in matters)
    shrink(crippled, matters, 20, 20)
    np.testing.assert_allclose(logits(crippled, rows), before, atol=1e-5)
    for experts in layers_of(crippled):
        assert experts.up.shape == (4, 16, 40)
        assert experts.down.shape == (4, 20, 16)
        assert experts.shared_up.shape == (16, 40)
        assert experts.shared_down.shape == (20, 16)


def test_importance_is_what_the_loss_would_feel_of_a_gate(network, data):
    settings = PruneSettings(0.002, tuning=TUNING)
    found = importance(network, data, settings)
    number, step = 5, 1e-3
    first = layers_of(network)[0]
    total = 0.0
    steps = data.steps(0, 0)
    for _ in range(min(20, data.steps_per_epoch)):
        (part,) = next(steps)
        features, labels = torch.from_numpy(part.inputs), torch.from_numpy(part.targets)
        part = dataclasses.replace(part, inputs=features, targets=labels)
        losses = []
        for gate in (1 + step, 1 - step):
            with torch.no_grad():
                kept = first.shared_down[number].clone()
                first.shared_down[number] *= gate
                losses.append(float(data.loss(network(features)[0].double(), part)))
                first.shared_down[number] = kept
        total += ((losses[0] - losses[1]) / (2 * step)) ** 2
    assert float(found[0][1][number]) == pytest.approx(total, rel=0.1, abs=1e-9)


def test_it_prunes_until_the_figure_falls_and_keeps_the_last_that_was_good(network, data):
    seen = []
    settings = PruneSettings(0.02, step=0.125, tuning=TUNING)
    before = {name: array.clone() for name, array in network.state_dict().items()}
    best, cycles = prune(
        network, data, "auc", settings, after=lambda cycle, its: seen.append(its.settings.expert_width)
    )
    assert cycles[0].pruned == 0
    assert cycles[1].pruned == 0.4
    assert [each.is_good for each in cycles[:-1]] == [True] * (len(cycles) - 1)
    assert all(each.is_good == (each.figure >= cycles[0].figure - 0.02) for each in cycles)
    assert seen == [each.expert_width for each in cycles]
    assert [each.parameters for each in cycles] == sorted((each.parameters for each in cycles), reverse=True)
    last = [each for each in cycles if each.is_good][-1]
    assert best.settings.expert_width == last.expert_width
    for name, array in network.state_dict().items():  # the one that was given is as it was
        assert torch.equal(array, before[name])


def test_with_no_tolerance_for_a_fall_the_whole_network_serves(network, data):
    figures = iter([0.9, 0.9, 0.5])  # the whole one, within the tuning, after it

    class Worse(type(data)):
        def validate(self, predict):
            found = super().validate(predict)
            return dataclasses.replace(found, figures=found.figures | {"fixed": next(figures)})

    worse = Worse.__new__(Worse)
    worse.__dict__.update(data.__dict__)
    best, cycles = prune(network, worse, "fixed", PruneSettings(0.0, tuning=TUNING))
    assert [each.is_good for each in cycles] == [True, False]
    assert best.settings == network.settings


def test_the_exported_graph_is_smaller_and_exact(network, data, tmp_path):
    rows = data.data.features[:100]
    whole = export(network, tmp_path / "whole.onnx", rows)
    small, cycles = prune(network, data, "auc", PruneSettings(1 - 1e-9, most=0.5, tuning=TUNING))
    assert [each.is_good for each in cycles] == [True] * 3
    pruned = export(small, tmp_path / "small.onnx", rows)
    assert len(pruned.file) < len(whole.file) - 2 * 4 * 4 * 16 * 3 * 10
    assert max(pruned.differences.values()) <= 1e-5


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="tolerance is -1; give what the figure may lose"):
        PruneSettings(-1)
    with pytest.raises(ValueError, match=r"first is 0\.95, step 0\.05, most 0\.9"):
        PruneSettings(0.1, first=0.95)
