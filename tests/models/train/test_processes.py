"""Several processes, real ones over gloo: together they do what one does, hold the same weights, and end together."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.train.processes import Processes
from models.train.task_data import Share
from tests.models.train.together import do

ROOT = Path(__file__).parents[3]
TOGETHER = ["-m", "tests.models.train.together"]
KINDS = "events,texts,images"


def two(folder: Path, *asked: str, ok: bool = True) -> subprocess.CompletedProcess:
    """Let two processes do something, see `tests/models/train/together.py`, and wait for them."""
    begin = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*begin, *TOGETHER, folder, *asked], cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert (done.returncode == 0) == ok, done.stderr
    return done


def alone(folder: Path, what: str) -> Path:
    """Do the same here, with whole batches."""
    its = folder / f"alone {what}"
    its.mkdir()
    do(what, Processes(), its)
    return its


def told(folder: Path) -> list[str]:
    """Return what each of two processes ended with."""
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def report(folder: Path) -> dict:
    return json.loads((folder / "training_report.json").read_text())


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What two processes did of everything, a folder for each."""
    folder = tmp_path_factory.mktemp("both")
    two(folder, "step:events", "step:events,texts", "norm", "unlike", "early:events", f"fit:{KINDS}")
    return folder


@pytest.mark.timeout(200)
@pytest.mark.parametrize("what", ["step:events", "step:events,texts"])
def test_a_step_of_two_processes_with_half_a_batch_each_is_that_of_one_with_the_whole(both, tmp_path, what):
    # No dropout, which draws anew in each process. What is left is float32: a sum of 100 terms in another order is off
    # by some 1e-6 of the largest of them. Adam divides a gradient by its own size, so from the second step on weights
    # may differ by a part of a step where a gradient is nearly 0, and with them the next gradients.
    mine, theirs = (np.load(folder / "arrays.npz") for folder in (alone(tmp_path, what), both / what))
    assert set(mine) == set(theirs)
    assert sum(name.startswith("step 0") for name in mine) > 20
    for name in mine:
        tolerance = 1e-5 if name.startswith("step 0") else 1e-3
        largest = max(np.abs(mine[name]).max(), 1e-4)
        np.testing.assert_allclose(mine[name], theirs[name], atol=tolerance * largest, rtol=0, err_msg=name)
    for name in mine:
        if name.endswith("visits") or name.startswith("bias"):  # of routing, every visit
            np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    first, second = told(both / what)
    assert first == second


def test_normalisation_is_that_of_the_whole_batch(both, tmp_path):
    whole = np.load(alone(tmp_path, "norm") / "norm-0.npz")
    parts = [np.load(both / "norm" / f"norm-{rank}.npz") for rank in (0, 1)]
    assert [len(part["rows"]) for part in parts] == [4, 3]
    for part in parts:
        for name in ("running_mean", "running_var"):
            np.testing.assert_allclose(part[name], whole[name], rtol=1e-5)
        for name in ("y", "x"):  # outputs, and gradients of inputs
            np.testing.assert_allclose(part[name], whole[name][part["rows"]], atol=1e-5)
    np.testing.assert_allclose(sum(part["weight"] for part in parts), whole["weight"], rtol=1e-4)


def test_other_weights_in_a_process_are_noticed(both):
    for said in told(both / "unlike"):
        assert said == (
            "process 1 has other weights than process 0; train on machines of one kind, with the same version of torch"
        )


def test_a_training_that_is_ended_after_a_validation_leaves_the_others_ready_for_the_next(both):
    first, second = told(both / "early:events")
    assert first == second == report(both / "early:events")["weights_sha256"]


def test_all_processes_end_with_the_same_weights(both):
    first, second = told(both / f"fit:{KINDS}")
    assert first == second
    assert len(first) == 64


def test_two_processes_take_the_steps_of_one_and_learn_alike(both, tmp_path):
    mine, theirs = report(alone(tmp_path, f"fit:{KINDS}")), report(both / f"fit:{KINDS}")
    assert (mine["processes"], theirs["processes"]) == (1, 2)
    assert mine["steps"] == theirs["steps"]
    assert mine["tasks"] == theirs["tasks"]
    for task in ("events", "texts"):  # images are augmented, by what each process draws
        losses = [each["curves"]["task_losses"][task] for each in (mine, theirs)]
        assert losses[0] == pytest.approx(losses[1], rel=0.05)
        for epoch, other in zip(mine["epochs"], theirs["epochs"], strict=True):
            visits = [np.sum(each["tasks"][task]["loads"][0]["visits"]) for each in (epoch, other)]
            assert visits[0] == visits[1]  # of all examples, in both


@pytest.mark.timeout(300)
def test_an_interrupted_run_of_two_is_resumed_by_two_to_the_same_numbers_and_by_one(both, tmp_path):
    two(tmp_path, f"interrupt:{KINDS}", ok=False)
    resumed, by_one = tmp_path / f"resume:{KINDS}", tmp_path / f"alone resume:{KINDS}"
    for folder in (resumed, by_one):
        shutil.copytree(tmp_path / f"interrupt:{KINDS}", folder)
    two(tmp_path, f"resume:{KINDS}")
    whole = both / f"fit:{KINDS}"
    assert told(whole) == told(resumed)
    assert report(whole)["epochs"] == report(resumed)["epochs"]
    assert report(whole)["curves"] == report(resumed)["curves"]
    do(f"resume:{KINDS}", Processes(), by_one)
    assert report(by_one)["processes"] == 1
    assert report(by_one)["steps"] == report(whole)["steps"]
    assert report(by_one)["curves"]["loss"][:3] == report(whole)["curves"]["loss"][:3]  # up to the checkpoint
    assert report(by_one)["weights_sha256"] != report(whole)["weights_sha256"]


@pytest.mark.timeout(200)
def test_two_machines_share_what_the_first_one_has(both, tmp_path):
    """Two launchers with one process each: what a machine maps was sent to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend",
        "c10d", "--rdzv-id", "machines", "--rdzv-endpoint", f"localhost:{port}", "--local-addr", "localhost",
    ]  # fmt: skip
    command = [*begin, *TOGETHER, tmp_path, f"fit:{KINDS}"]
    started = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [each.communicate(timeout=170)[1] for each in started]
    assert [each.returncode for each in started] == [0, 0], errors
    assert told(tmp_path / f"fit:{KINDS}") == told(both / f"fit:{KINDS}")


def test_a_batch_smaller_than_the_processes_is_given_to_each():
    rows = np.array([7, 8, 9])
    assert [Share(index, 2).of(rows).tolist() for index in (0, 1)] == [[7, 9], [8]]
    assert [Share(index, 4).of(rows).tolist() for index in (0, 3)] == [[7, 8, 9], [7, 8, 9]]
