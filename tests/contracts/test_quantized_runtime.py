"""What was quantised is served by the same runtime under the same contract, beside torch with the weights in int8.

The parity is that of fp32, 1e-5, where products are computed in fp32. Where ONNX Runtime rounds activations too, each
row by itself, it is 0.05 of a logit in 95 of 100 rows (in others an expert flips); everything else holds there as well.
"""

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from models.export import export
from models.moe_runtime import OnnxMoE
from models.quantize.graph import Graph, visitors
from models.quantize.packing import rounded, swiglu
from models.quantize.variants import GROUP, VARIANTS
from tests.contracts.test_moe_runtime import SIZES, SPECS, network, rows

TOLERANCE = {"experts-int8": 1e-5, "experts-int8-fused": 1e-5, "experts-int8-groups": 0.05}
BUILD = {each.name: each.build for each in VARIANTS if each.name in TOLERANCE}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    # ONNX Runtime 1.31 takes groups only where experts are as wide as tokens
    made = network(replace(SIZES, width=2 * GROUP, expert_width=2 * GROUP))
    path = tmp_path_factory.mktemp("quantized") / "fp32.onnx"
    export(made, path, rows(100))
    return made, onnx.load(path), path.parent


@pytest.fixture(scope="module", params=TOLERANCE)
def form(request, exported):
    """Return its name, its graph, and the torch network with the weights that it stands for."""
    made, model, _ = exported
    calibration = rows(200, seed=4)
    graph, same = Graph(model), copy.deepcopy(made)
    arrays = dict(same.named_parameters())
    group = GROUP if request.param == "experts-int8-groups" else None
    for layer, (seen, ids) in zip(graph.layers, visitors(graph, calibration), strict=True):
        up, down = graph.array(layer.up), graph.array(layer.down)
        each = [seen[(ids == expert).any(axis=1)] for expert in range(len(up))]
        hidden = [swiglu(visits, own) for visits, own in zip(each, up, strict=True)]
        for name, given in ((layer.up, rounded(up, 8, group, each)), (layer.down, rounded(down, 8, group, hidden))):
            ours = next(array for key, array in arrays.items() if key.endswith(name.removeprefix("network.")))
            ours.data = torch.from_numpy(given.weights())
    return request.param, BUILD[request.param](model, calibration), same


def served(exported, name, model, **options):
    path = exported[2] / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return OnnxMoE(path, SPECS, **options)


def bent(form, bend):
    """Change the routers of both sides; `bend` gets weight and bias of one as arrays."""
    name, model, same = form[0], onnx.ModelProto(), copy.deepcopy(form[2])
    model.CopyFrom(form[1])
    arrays = {each.name: each for each in model.graph.initializer}
    for number, router in enumerate(same.routers()):
        prefix = f"network.blocks.{number}.experts.router."
        weight, bias = (router.weight.detach().numpy(), router.bias.numpy())
        bend(weight, bias)
        for key, array in (("weight", weight), ("bias", bias)):
            if prefix + key in arrays:  # the exporter keeps one of equal arrays, and all are bent alike
                arrays[prefix + key].CopyFrom(numpy_helper.from_array(array, prefix + key))
    return name, model, same


@torch.no_grad()
def agree(exported, form, batches=(1, 7, 64)):
    name, model, same = form
    runtime = served(exported, name, model, buckets=(1, 8, 64))
    for n in batches:
        features = rows(n, seed=n)
        expected = same.logits(torch.from_numpy(features)).double().numpy()
        off = np.abs(runtime.logits(features) - expected)
        assert np.quantile(off, 1.0 if TOLERANCE[name] < 0.01 else 0.95) <= TOLERANCE[name]


def test_it_agrees_with_torch_in_any_batch(exported, form):
    agree(exported, form)


def test_ties_go_to_the_lowest_index(exported, form):
    def tie(weight, bias):
        weight[:], bias[:] = 0, 0

    agree(exported, bent(form, tie))


def test_an_expert_that_nobody_visits(exported, form):
    def empty(weight, bias):
        bias[0] = -1e3

    agree(exported, bent(form, empty))


def test_all_visit_one_expert(exported, form):
    def crowd(weight, bias):
        bias[-1] = 1e3

    agree(exported, bent(form, crowd))


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, 13, 21])
def test_a_score_does_not_depend_on_the_batch(exported, form, batch):
    runtime, features = served(exported, form[0], form[1], buckets=(1, 2, 4, 8)), rows(21)
    parts = [runtime.logits(features[first : first + batch]) for first in range(0, 21, batch)]
    np.testing.assert_allclose(np.concatenate(parts), runtime.logits(features), atol=1e-5, rtol=0)


def test_no_events_give_no_scores(exported, form):
    assert served(exported, form[0], form[1], buckets=(1,)).logits(np.zeros((0, len(SPECS)))).shape == (0,)


def test_rows_in_another_memory_order_score_the_same(exported, form):
    runtime, features = served(exported, form[0], form[1], buckets=(8,)), rows(8)
    np.testing.assert_array_equal(runtime.logits(np.asfortranarray(features)), runtime.logits(features))


def test_it_tells_what_the_fp32_file_tells(exported, form):
    def told(model):
        return [output.name for output in model.graph.output], {each.key: each.value for each in model.metadata_props}

    assert told(form[1]) == told(exported[1])
    assert form[1].ByteSize() < exported[1].ByteSize()
