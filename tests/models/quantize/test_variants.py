"""Every form of the shipped network that leaves all but its experts alone computes what plain numpy computes."""

import numpy as np
import onnx
import pytest

from models.quantize.graph import Graph, QuantizeError, differing, experts_in_float, run, visitors
from models.quantize.packing import rounded, swiglu
from models.quantize.variants import GROUP, VARIANTS
from tests.models.quantize.demo_network import MODEL, rows

BY_NAME = {each.name: each for each in VARIANTS}
EXPERTS = ("experts-fused", "experts-int8", "experts-int8-fused", "experts-int8-groups")


@pytest.fixture(scope="module")
def calibration():
    return rows(300)


@pytest.fixture(scope="module")
def built(calibration):
    return {name: BY_NAME[name].build(MODEL, calibration) for name in EXPERTS}


def dequantised(name, calibration):
    """Return per layer the weights that a variant has, computed anew."""
    graph = Graph(MODEL)
    found = []
    for layer, (seen, ids) in zip(graph.layers, visitors(graph, calibration), strict=True):
        up, down = graph.array(layer.up), graph.array(layer.down)
        if name != "experts-fused":
            group = GROUP if name == "experts-int8-groups" else None
            each = [seen[(ids == expert).any(axis=1)] for expert in range(len(up))]
            hidden = [swiglu(visits, own) for visits, own in zip(each, up, strict=True)]
            up, down = rounded(up, 8, group, each).weights(), rounded(down, 8, group, hidden).weights()
        found.append((layer, up, down))
    return found


@pytest.mark.parametrize(
    ("name", "tolerance"),
    # int8-groups rounds activations to int8 too: that is how ONNX Runtime computes groups
    [("experts-fused", 1e-5), ("experts-int8", 1e-5), ("experts-int8-fused", 1e-5), ("experts-int8-groups", 0.05)],
)
def test_experts_give_what_numpy_gives_with_the_dequantised_weights(built, calibration, name, tolerance):
    features = rows(20, seed=1)
    telling = onnx.ModelProto()
    telling.CopyFrom(built[name])
    for layer, up, down in dequantised(name, calibration):
        names = [layer.rows, layer.ids, layer.weights, layer.routed]
        kinds = [onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT]
        del telling.graph.output[:]
        telling.graph.output.extend(
            onnx.helper.make_tensor_value_info(each, kind, [None, None])
            for each, kind in zip(names, kinds, strict=True)
        )
        seen, ids, weights, routed = run(telling, names, features)
        expected = np.zeros_like(routed)
        for row in range(len(seen)):
            for expert, weight in zip(ids[row], weights[row], strict=True):
                expected[row] += weight * (swiglu(seen[row : row + 1], up[expert]) @ down[expert])[0]
        assert np.ptp(expected) > 0.5
        np.testing.assert_allclose(routed, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", EXPERTS)
def test_only_experts_differ_from_what_was_trained(built, name):
    layers = Graph(MODEL).layers
    assert differing(MODEL, built[name], layers) == []
    assert experts_in_float(MODEL, built[name], layers) == (name == "experts-fused")


def test_a_router_that_was_rounded_too_is_seen(built):
    graph = Graph(MODEL)
    name = "network.blocks.1.experts.router.weight"
    graph.add(name, rounded(graph.array(name)[None]).weights()[0])
    assert differing(MODEL, graph.model, graph.layers) == [name]


def test_the_stored_form_has_standard_operators_alone(built):
    assert {node.domain for node in built["experts-int8"].graph.node} == {""}
    onnx.checker.check_model(built["experts-int8"])
    assert built["experts-int8"].ByteSize() < 0.45 * MODEL.ByteSize()


def test_a_network_without_experts_is_refused():
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    for initializer in model.graph.initializer:
        initializer.name = initializer.name.replace(".experts.router.weight", ".other")
    with pytest.raises(QuantizeError, match="no routers under their names; train it again"):
        Graph(model)
