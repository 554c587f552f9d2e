"""The doctor: a healthy machine, and one test for each illness that it can tell."""

import os
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from ops import doctor


def named(found, name):
    return next(check for check in found if check.name == name)


def test_this_machine_is_healthy(tmp_path):
    found = doctor.checks(tmp_path / "data" / "not" / "made" / "yet")
    assert doctor.healthy(found), [check for check in found if not check.ok]
    assert named(found, "model on CPU").found == "works"
    assert named(found, "data folder").found.endswith("can be made")
    assert not (tmp_path / "data").exists()
    assert len({check.name for check in found}) == len(found)


def test_whatever_is_wrong_comes_with_advice(tmp_path):
    key = tmp_path / "key"
    key.write_text("x")
    key.chmod(0o644)
    sick = [
        doctor._python((3, 9, 1)),
        doctor._package("no-such-package-of-ours"),
        doctor._one_runtime({}),
        doctor._one_runtime({"onnxruntime": "1.2", "onnxruntime-gpu": "1.3"}),
        doctor._free_space(tmp_path, 10**18),
        doctor._clock(0.0),
        doctor._key(key),
    ]
    assert [check for check in sick if check.ok or not check.advice] == []
    assert not doctor.healthy(sick)


def test_both_runtimes_together_are_an_illness():
    check = doctor._one_runtime({"onnxruntime": "1.2", "onnxruntime-gpu": "1.3"})
    assert check.found == "onnxruntime 1.2 and onnxruntime-gpu 1.3"
    assert "pip uninstall onnxruntime onnxruntime-gpu" in check.advice


def test_the_tiny_network_gives_back_its_input():
    session = onnxruntime.InferenceSession(doctor.TINY_NETWORK, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.array([2.5], np.float32)})[0].tolist() == [2.5]


def test_a_data_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    check = doctor._writable(tmp_path / "file" / "data")
    assert not check.ok
    assert check.found == f"{tmp_path / 'file'} is a file"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="/proc is the folder that not even root can write")
def test_a_data_folder_that_cannot_be_written_is_named():
    check = doctor._writable(Path("/proc/self/pelton"))
    assert not check.ok
    assert "/proc/self cannot be written" in check.found


def test_a_key_only_its_owner_can_read_is_fine(tmp_path, monkeypatch):
    key = tmp_path / "key"
    assert doctor._key(key).found == "none yet"
    key.write_text("x")
    key.chmod(0o600)
    assert doctor._key(key).ok
    monkeypatch.setenv("PELTON_KEY", "secret")
    assert doctor._key(None) == doctor.Check("key", True, "from PELTON_KEY")


def test_training_is_optional():
    check = doctor._training({})
    assert check.ok
    assert check.advice == "to train: pip install 'pelton[train]'"


def test_the_clock_of_now_is_fine():
    assert doctor._clock(time.time() + 120).ok
