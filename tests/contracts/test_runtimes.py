"""Whatever computes a network, it computes the same: ONNX Runtime and torch, on whatever is at hand."""

import copy

import numpy as np
import onnx
import pytest
import torch

from models.export import FORM
from models.moe.network import cut_out
from models.moe.torch_runtime import TorchRuntime
from models.onnx_export import to_onnx
from models.onnx_weights import WEIGHTS, WeightsError, read_weights
from models.runtimes import OnnxRuntime, RuntimeRefusedError, open_network, open_session
from tests.contracts.test_moe_runtime import SPECS, network, rows

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def usual(router):
    pass


def ties(router):
    router.weight.data.zero_()
    router.bias.zero_()


def empty_expert(router):
    router.bias[0] = -1e3


def all_to_one(router):
    router.bias[-1] = 1e3


@pytest.fixture(scope="module", params=[usual, ties, empty_expert, all_to_one], ids=lambda bend: bend.__name__)
def file(request):
    made = copy.deepcopy(cut_out(network()).eval())
    for router in made.routers():
        request.param(router)
    return to_onnx(made, FORM, [torch.zeros(3, len(SPECS), dtype=torch.float64)], columns()).SerializeToString()


def columns():
    return {"pelton.columns": [{f: getattr(spec, f) for f in ("name", "kind", "group", "step")} for spec in SPECS]}


@pytest.fixture(params=["torch-cpu", pytest.param("cuda", marks=ON_GPU), pytest.param("triton", marks=ON_GPU)])
def runtime(request, file):
    if request.param == "torch-cpu":
        return TorchRuntime(file, "cpu")
    if request.param == "triton":
        return open_network(file, gpu="require")
    return OnnxRuntime(*open_session(file, 1, "require"))


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_all_runtimes_agree(runtime, file, batch, request):
    reference, features = open_network(file), rows(batch, seed=batch)
    (expected,) = reference.run(["logits"], {"features": features})
    for _ in range(2):  # the second time is a replay, on a GPU
        (found,) = runtime.run(["logits"], {"features": features})
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert np.ptp(reference.run(["logits"], {"features": rows(64)})[0]) > 0.1


def test_a_runtime_says_what_it_is(runtime, file):
    assert runtime.provider in ("torch-cpu", "cuda", "triton")
    assert runtime.notes == dict(open_network(file).notes)
    assert "logits" in runtime.outputs


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_a_cpu_does_it_if_it_may(file):
    assert open_network(file, gpu="prefer").provider == "cpu"
    with pytest.raises(RuntimeRefusedError, match=r"a GPU is required, .* let a CPU do it: --gpu prefer"):
        open_network(file, gpu="require")


def test_the_weights_are_found_again_in_the_file(file):
    made, found = cut_out(network()).state_dict(), read_weights(onnx.load_model_from_string(file))
    assert set(found) == set(made)
    for name, array in found.items():
        if ".router." not in name:  # which some of these files have bent
            np.testing.assert_array_equal(array, made[name].numpy(), err_msg=name)


def changed(file, change):
    model = onnx.load_model_from_string(file)
    change(model)
    return model.SerializeToString()


def test_a_file_without_its_weights_is_not_for_torch(file):
    def older(model):
        del model.metadata_props[[note.key for note in model.metadata_props].index(WEIGHTS)]

    def packed(model):
        next(each for each in model.graph.initializer if each.name.endswith("shared_up")).name = "packed"

    def of_texts(model):
        next(note for note in model.metadata_props if note.key == "pelton.columns").key = "pelton.text"

    for change, why in (
        (older, "exported by an older version"), (packed, r"shared_up is gone"), (of_texts, "reads no event features"),
    ):  # fmt: skip
        with pytest.raises(WeightsError, match=why):
            TorchRuntime(changed(file, change), "cpu")
