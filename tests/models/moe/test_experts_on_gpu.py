import pytest
import torch

from models.moe.experts import SparseExperts
from models.moe.settings import MoESettings

pytest.importorskip("triton", reason="Triton is not installed (the extra `train` brings it on Linux)")

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def serving() -> SparseExperts:
    return SparseExperts(MoESettings(width=8, heads=2, experts=4, expert_width=8, shared_width=8)).eval()


@torch.no_grad()
def test_the_kernels_serve_on_a_gpu(serving):
    assert serving._kernels_can(CUDA, torch.float32)
    assert serving.half()._kernels_can(CUDA, torch.float16)


@torch.no_grad()
def test_the_kernels_do_nothing_else(serving):
    assert not serving._kernels_can(CPU, torch.float32)
    assert not serving._kernels_can(CUDA, torch.float16)  # the weights are fp32
    with torch.enable_grad():
        assert not serving._kernels_can(CUDA, torch.float32)
    torch.set_autocast_enabled("cuda", True)  # what torch.autocast does, which asks for a GPU first
    try:
        assert not serving._kernels_can(CUDA, torch.float32)
    finally:
        torch.set_autocast_enabled("cuda", False)
    serving.exporting = True
    assert not serving._kernels_can(CUDA, torch.float32)
    serving.exporting = False
    assert not serving.train()._kernels_can(CUDA, torch.float32)
    assert not serving.eval().double()._kernels_can(CUDA, torch.float64)
