"""Whether a GPU computes networks is chosen by an option or the environment, and never by chance."""

from pathlib import Path

import pytest
import torch

import ops.demo
from ops.simulate import SimulationSettings, simulate

DEMO = Path(ops.demo.__file__).parent
WITHOUT = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@pytest.fixture
def replay(tmp_path, monkeypatch):
    """Return a command line that decides some payments with the demo's network."""
    monkeypatch.chdir(tmp_path)
    made = simulate(SimulationSettings(days=1, events_per_day=60, cards=10, terminals=20), tmp_path)
    files = f"--input {made.payments_path} --input {made.labels_path} --output out.csv"
    return f"replay {DEMO / 'payments.py'} {files} --bundle {DEMO / 'bundle'}"


@WITHOUT
def test_a_gpu_that_is_required_and_missing_stops_the_start(pelton, replay, tmp_path):
    told = pelton(f"{replay} --gpu require", code=1).stderr
    assert told.startswith("pelton: a GPU is required, and none can be used here; install the driver")
    assert not (tmp_path / "out.csv").exists()


@WITHOUT
def test_a_gpu_that_is_preferred_and_missing_leaves_it_to_a_cpu(pelton, replay, tmp_path, monkeypatch):
    pelton(replay)
    on_cpu = (tmp_path / "out.csv").read_bytes()
    monkeypatch.setenv("PELTON_GPU", "prefer")
    pelton(replay)
    assert (tmp_path / "out.csv").read_bytes() == on_cpu


def test_a_choice_that_is_none_is_told_and_the_option_comes_before_the_environment(pelton, replay, monkeypatch):
    monkeypatch.setenv("PELTON_GPU", "yes")
    told = pelton(replay, code=1).stderr
    assert told == "pelton: PELTON_GPU, or --gpu, is 'yes'; choose never, prefer, require\n"
    pelton(f"{replay} --gpu never")


@WITHOUT
def test_a_running_app_does_not_start_without_the_gpu_it_requires(pelton, replay):
    pelton(f"models promote risk {DEMO / 'bundle'}")
    told = pelton(f"run {DEMO / 'payments.py'} --until-idle --gpu require", code=1).stderr
    assert "a GPU is required, and none can be used here" in told
