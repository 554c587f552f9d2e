import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.features import FeatureSpec
from models.moe.parts import PARTS
from models.moe.settings import MoESettings
from models.train.checkpoint import CheckpointError
from models.train.dataset import Sampling
from models.train.events import EventData, ranking_figures
from models.train.joint import fit
from models.train.report import History, load_figures
from models.train.settings import TrainSettings

SIZES = MoESettings(
    width=16, heads=2, experts=4, expert_width=8, shared_width=8, bins=8, waves=2, members=2, head_width=16
)
SETTINGS = TrainSettings(epochs=6, learning_rate=1e-2, device="cpu")
SAMPLING = Sampling(batch=64, negatives_per_positive=3)
SPECS = [FeatureSpec("amount", group="a"), FeatureSpec("country", "category", "a"), FeatureSpec("gap", group="b")]


def stream(n: int = 4000, seed: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positives are likelier with large amounts in one country, about 7 % in all."""
    chance = np.random.default_rng(seed)
    amount, country, gap = chance.lognormal(size=n), chance.integers(0, 4, n), chance.normal(size=n)
    logit = -4 + 1.5 * np.log(amount) + 2 * (country == 1)
    labels = (chance.random(n) < 1 / (1 + np.exp(-logit))).astype(np.uint8)
    gap[chance.random(n) < 0.1] = np.nan
    return np.stack([amount, country * 77_777.0, gap], 1), labels, np.arange(n) * 1000


def events(arrays, sampling: Sampling = SAMPLING) -> dict[str, EventData]:
    features, labels, times_ms = arrays
    return {"risk": EventData(features, SPECS, labels, times_ms, sampling)}


class InterruptedRunError(Exception):
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return fit(events(stream()), SETTINGS, tmp_path_factory.mktemp("run"), sizes=SIZES)


def test_learns_what_there_is_to_learn(trained):
    features, labels, _ = stream(seed=9)
    figures = ranking_figures(labels, trained.predict(features), np.ones(len(labels)))
    assert figures["auc"] > 0.82  # the generator's own logit reaches 0.859


def test_logits_are_calibrated_although_negatives_were_left_out(trained):
    features, labels, _ = stream(n=20_000, seed=9)
    probability = 1 / (1 + np.exp(-trained.predict(features)))
    assert probability.mean() == pytest.approx(labels.mean(), rel=0.2)


def test_a_weight_for_positives_leaves_the_logits_calibrated(tmp_path):
    features, labels, _ = arrays = stream(n=3000)
    sampling = replace(SAMPLING, positive_weight=5.0, negatives_per_positive=0)
    trained = fit(events(arrays, sampling), SETTINGS, tmp_path, sizes=SIZES)
    probability = 1 / (1 + np.exp(-trained.predict(features)))
    assert probability.mean() == pytest.approx(labels.mean(), rel=0.25)


def test_the_report_tells_figures_loads_and_provenance(trained):
    report = json.loads((trained.out_dir / "training_report.json").read_text())
    assert report == json.loads(json.dumps(trained.report))
    assert report["validation"]["risk"]["average_precision"] == max(e["score"] for e in report["epochs"])
    assert len(report["loads"]) == SIZES.layers
    assert all(sum(load["visits"]) > 0 for load in report["loads"])
    assert len(report["tasks"]["risk"]["data_sha256"]) == 64
    curves = report["curves"]
    assert curves["step"] == list(range(1, report["steps"] + 1))
    parts = np.array(list(curves["part_norms"].values()))
    assert set(curves["part_norms"]) == set(PARTS)
    assert (parts > 0).all()
    np.testing.assert_allclose(np.sqrt((parts**2).sum(0)), curves["gradient_norm"], rtol=1e-4)
    assert (trained.out_dir / "training_report.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_network_and_another_seed_another(trained, tmp_path):
    features, _, _ = arrays = stream()
    state = torch.get_rng_state()
    again = fit(events(arrays), SETTINGS, tmp_path / "again", sizes=SIZES)
    other = fit(events(arrays), replace(SETTINGS, seed=1), tmp_path / "other", sizes=SIZES)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator is left alone
    np.testing.assert_array_equal(trained.predict(features), again.predict(features))
    assert np.abs(trained.predict(features) - other.predict(features)).max() > 1e-3


def test_accumulating_two_half_batches_is_one_whole_batch(tmp_path):
    # without dropout and auxiliary losses (those depend on the batch) only the order of additions differs
    features, _, _ = arrays = stream(n=1000)
    sizes = replace(SIZES, dropout=0.0, input_dropout=0.0, aux_weight=0.0, z_weight=0.0)
    settings = replace(SETTINGS, epochs=1)
    whole = fit(events(arrays), settings, tmp_path / "whole", sizes=sizes)
    halved = events(arrays, replace(SAMPLING, batch=32, accumulate=2))
    halves = fit(halved, settings, tmp_path / "halves", sizes=sizes)
    np.testing.assert_allclose(whole.predict(features), halves.predict(features), atol=1e-3)


def test_training_stops_when_nothing_gets_better(tmp_path):
    features, labels, times_ms = stream(n=1000)
    chance = np.random.default_rng(0).permutation(labels)  # nothing to learn
    settings = replace(SETTINGS, epochs=30, patience=2)
    trained = fit(events((features, chance, times_ms)), settings, tmp_path, sizes=SIZES)
    assert len(trained.report["epochs"]) == trained.report["best_epoch"] + 2 < 30


def test_progress_counts_up_to_the_plan(tmp_path):
    told = []
    fit(events(stream(n=1000)), replace(SETTINGS, epochs=2), tmp_path, told.append, sizes=SIZES)
    assert [p.step for p in told] == sorted(p.step for p in told)
    assert told[-1].step == told[-1].steps
    assert told[0].figures == {}
    assert 0 < told[-1].figures["risk"] <= 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ValueError, match="device is 'cuda', and torch finds no GPU here"):
        fit(events(stream(n=1000)), replace(SETTINGS, device="cuda"), tmp_path, sizes=SIZES)


def test_resuming_needs_a_checkpoint_of_the_same_run(trained, tmp_path):
    features, labels, times_ms = stream()
    with pytest.raises(CheckpointError, match=r"there is no checkpoint at .*train from the start"):
        fit(events((features, labels, times_ms)), SETTINGS, tmp_path, sizes=SIZES, resume=True)
    shutil.copytree(trained.out_dir / "checkpoint", tmp_path / "checkpoint")
    other = features.copy()
    other[0, 0] += 1
    with pytest.raises(CheckpointError, match="is of another run: data_sha256 of task 'risk' differs"):
        fit(events((other, labels, times_ms)), SETTINGS, tmp_path, sizes=SIZES, resume=True)
    with pytest.raises(CheckpointError, match="is of another run: training differs"):
        fit(events((features, labels, times_ms)), replace(SETTINGS, clip=2.0), tmp_path, sizes=SIZES, resume=True)
    renamed = {"fraud": events((features, labels, times_ms))["risk"]}
    with pytest.raises(CheckpointError, match="is of another run: tasks differs"):
        fit(renamed, SETTINGS, tmp_path, sizes=SIZES, resume=True)


def test_load_figures_count_the_worst_and_the_dead():
    figures = load_figures(np.array([30, 10, 0, 0]))
    assert figures == {"visits": [30, 10, 0, 0], "max_violation": 2.0, "dead_experts": 2, "entropy": 0.4056}


def test_curves_of_a_long_training_are_means_of_neighbouring_steps():
    history = History()
    for step in range(7):
        history.add_step({"risk": float(step)}, {"risk": 1.0}, 10.0 * step, {"head": 1.0} if step >= 5 else {})
    curves = history.curves(points_max=3)
    assert curves["step"] == [3, 6, 7]
    assert curves["loss"] == [1, 4, 6]
    assert curves["gradient_norm"] == [10, 40, 60]
    assert curves["part_norms"] == {"head": [None, 1, 1]}  # noted from step 5 on
    assert History().curves()["step"] == []


def test_patience_counts_from_the_best_epoch():
    history = History()
    for found in (0.5, 0.7, 0.6, 0.7):
        history.add_step({"risk": 1.0}, {"risk": 1.0}, 1.0, {})
        history.add_epoch(1, {"risk": 1}, {"risk": found}, {"risk": {}}, [], {"risk": []})
    assert history.best_epoch == 2
    assert history.stalled(2)
    assert not history.stalled(3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs is 0; choose a number above zero"),
        ({"warmup_share": 1.0}, "warmup_share is 1.0; choose a share below 1"),
        ({"device": "gpu"}, "device is 'gpu'; choose auto, cpu or cuda"),
    ],
)
def test_settings_that_cannot_work_say_what_to_choose(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings(**wrong)
