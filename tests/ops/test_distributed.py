"""`pelton train --distributed 2` with real processes: a bundle like any other, one voice, and a common end."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.bundle import read_bundle
from models.scorer import Scorer
from ops.inputs import open_inputs
from ops.settings import Settings
from ops.simulate import SimulationSettings, simulate
from ops.training.history import read_history
from ops.training.launching import first_to_end
from pipeline.loading import load_app

ROOT = Path(__file__).parents[2]
APP = ROOT / "ops" / "demo" / "payments.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with payments.jsonl and frauds.jsonl of 10 days."""
    out = tmp_path_factory.mktemp("stream")
    simulate(SimulationSettings(days=10, events_per_day=600, cards=150, terminals=40, fraud_rate=0.05, seed=3), out)
    return out


def started(folder: Path, out: Path, *more: str, begin: tuple[str, ...] = ()) -> subprocess.Popen:
    """Begin a training on the files of a folder."""
    data = [str(folder / f"{name}.jsonl") for name in ("payments", "frauds")]
    command = [sys.executable, *begin, "-m", "ops.cli", "train", str(APP), "--data", *data, "--quick", "--no-register"]
    environment = os.environ | {"PELTON_DATA": str(out / "data"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--out", str(out), *more], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def children(process: subprocess.Popen) -> list[int]:
    """Return the ids of the processes that one started, in that order."""
    return [int(each) for each in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.timeout(200)
@pytest.mark.parametrize("by_torchrun", [False, True], ids=["pelton", "torchrun"])
def test_two_processes_make_a_bundle_like_any_other(folder, tmp_path, by_torchrun):
    begin = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2") if by_torchrun else ()
    training = started(folder, tmp_path, *(() if by_torchrun else ("--distributed", "2")), begin=begin)
    said, progress = training.communicate(timeout=180)
    assert training.returncode == 0, progress
    for stage in ("replay", "network", "export", "scores", "learner"):  # of process 0 alone
        assert len(re.findall(f"^{stage}:", progress, re.M)) == 1, progress
    assert said.count("learned from") == 1
    (path,) = tmp_path.glob("risk-*")
    bundle = read_bundle(path)
    assert bundle.meta.provenance["processes"] == 2
    assert bundle.meta.provenance["command"].endswith("" if by_torchrun else "--distributed 2")
    app = load_app(str(APP))
    tokeniser, _ = Settings.read(tmp_path / "data").secrets(app, make=False)
    files = open_inputs(app, [str(folder / f"{name}.jsonl") for name in ("payments", "frauds")])
    history = read_history(app, app.task("risk"), files, tokeniser=tokeniser)
    scores = Scorer(bundle, None, history.specs).score(history.features[-300:])
    assert scores.rung == "moe+ftrl"
    assert ((scores.probability >= 0) & (scores.probability <= 1)).all()
    assert np.ptp(scores.probability) > 0.1
    assert not list(Path(os.environ.get("TMPDIR", "/tmp")).glob("pelton-*/*.npy"))  # nothing is left of what was mapped


@pytest.mark.timeout(200)
@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_a_killed_process_ends_the_others_with_a_word_about_it(folder, tmp_path):
    training = started(folder, tmp_path, "--distributed", "2", "--epochs", "2")
    assert training.stderr is not None
    for line in training.stderr:
        if line.startswith("replay"):  # told when the next stage, the network, begins
            break
    _, other = children(training)
    os.kill(other, signal.SIGKILL)
    _, said = training.communicate(timeout=120)
    assert training.returncode == 1
    assert (
        "pelton: process 1 of 2 (counted from 0) was killed by SIGKILL, and the others were stopped; the same " in said
    )
    assert "Traceback" not in said


@pytest.mark.timeout(200)
def test_what_the_user_can_mend_is_told_once(folder, tmp_path):
    training = started(folder, tmp_path, "--distributed", "2", "--task", "nosuch")
    said, error = training.communicate(timeout=120)
    assert (training.returncode, said) == (1, "")
    assert re.fullmatch(r"pelton: .*'nosuch'.*\n", error)


def test_the_process_that_ended_the_others_is_named():
    assert "process 1 of 2 (counted from 0) was killed by SIGKILL" in first_to_end({0: 75, 1: -9}, 2)
    assert "process 2 of 3 (counted from 0) ended with code 1" in first_to_end({0: 75, 1: -15, 2: 1}, 3)
    assert first_to_end({0: 1, 1: 75}, 2) is None  # it said why
