"""The Triton kernels in processes of their own: Triton decides once, when it is imported, whether it interprets.

Interpreted, they are compared with their twins (parity_*.py); compiled for GPUs that are not here, their machine code
is looked at (ahead.py); on a GPU, if there is one, they are compared again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed (the extra `train` brings it on Linux)")

import torch

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[3]
TARGETS = {80: 163, 90: 227}  # compute capability: KiB of shared memory that a program may have (A100, H100)
each_parity = pytest.mark.parametrize("file", ["parity_parts.py", "parity_layer.py"])
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: interpreted and compiled instead")


def run(*arguments: object, interpret: bool) -> str:
    """Run Python in the repository, and return what it printed; a failure shows it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TRITON_INTERPRET"))}
    environment = {**kept, **({"TRITON_INTERPRET": "1"} if interpret else {})}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def parity(file: str, interpret: bool) -> str:
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "-W", "ignore::RuntimeWarning"]
    return run("-m", "pytest", *options, HERE / file, interpret=interpret)  # numpy tells of exp(-x) that overflows


@each_parity
@pytest.mark.timeout(300)
def test_interpreted_the_kernels_agree_with_their_twins(file):
    assert " passed" in parity(file, interpret=True)


@no_gpu
@each_parity
@pytest.mark.timeout(300)
def test_on_a_gpu_the_kernels_agree_with_their_twins(file):
    assert " passed" in parity(file, interpret=False)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("capability", TARGETS)
def test_compiled_ahead_of_time_the_kernels_use_what_the_gpu_has(capability):
    # fp16 differs from bf16 in the letters of its instructions alone; the benchmark compiles all
    words = ["bf16", "up fp32 64", "down fp32 64", "plan", "count", "order"]
    told = run("-m", "tests.kernels.moe.ahead", f"sm_{capability}", *words, interpret=False)
    rows = json.loads(told.splitlines()[-1])
    assert len(rows) == 17
    for row in rows:
        name = row["kernel"]
        assert row["spills"] == 0, row
        assert row["shared_kib"] <= TARGETS[capability], row
        if name.startswith(("up", "shared up", "down", "combine")):
            wgmma = capability == 90 and " 64x" in name  # which multiplies no fewer than 64 rows
            assert (row["wgmma"] > 0, row["mma"] > 0) == (wgmma, not wgmma), row
        if not name.startswith(("small", "plan", "count", "order")):
            assert row["cp_async"] > 0, row
        if not name.startswith(("count", "order")):
            assert row["wide"] > 0, row


def test_without_a_gpu_they_say_where_to_go():
    from kernels.moe import sparse_experts

    rows, weights = torch.zeros(2, 4), [torch.zeros(1)] * 6
    with pytest.raises(
        ValueError, match=r"rows are on cpu; these kernels run on a CUDA device, elsewhere use models\.moe"
    ):
        sparse_experts(rows, *weights, 1)
