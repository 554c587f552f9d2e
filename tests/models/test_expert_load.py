"""The visits and the attention that the graph tells are those of torch, and the figures say what a router does."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from models.expert_load import BATCHES_TOGETHER, RECENT_EVENTS, ExpertLoad, dead, entropy, is_enough, overflow
from models.export import export
from models.features import FeatureSpec
from models.inspection import Network
from models.moe.network import event_network
from models.moe.parts import part_of
from models.moe.settings import MoESettings
from models.moe.tokens import plan_tokens
from models.moe_runtime import OnnxMoE
from models.onnx_outputs import OutputsError, tell_chosen

SIZES = MoESettings(width=16, heads=2, experts=4, expert_width=8, shared_width=8, bins=2, waves=2, members=2, buckets=8)
SPECS = [FeatureSpec("amount", group="a"), FeatureSpec("shop", "category", "b"), FeatureSpec("x_1", group="s", step=1)]


def rows(n, seed=3):
    chance = np.random.default_rng(seed)
    features = chance.normal(size=(n, 3))
    features[:, 1] = chance.integers(0, 1 << 32, n)
    return features


def made(folder, chosen):
    """Return a network and the runtime of its export, in batches of up to 8."""
    torch.manual_seed(4)
    network = event_network(SPECS, replace(SIZES, chosen=chosen)).eval()
    with torch.no_grad():
        for array in (*network.parameters(), *network.buffers()):  # of equal arrays the export keeps one
            if array.is_floating_point():
                array += 0.01 * torch.randn_like(array)
    export(network, folder / "moe.onnx", rows(50))
    return network, OnnxMoE(folder / "moe.onnx", SPECS, buckets=(1, 4, 8))


@torch.no_grad()
def counted_by_torch(network, features):
    """Ask the routers themselves."""
    visits = []
    hooks = [
        router.register_forward_hook(
            lambda router, given, answer: visits.append(np.bincount(answer[1].numpy().ravel(), minlength=4))
        )
        for router in network.routers()
    ]
    network.logits(torch.from_numpy(features))
    for hook in hooks:
        hook.remove()
    return np.stack(visits)


@pytest.fixture(scope="module", params=[1, 2])
def folder(request, tmp_path_factory):
    return tmp_path_factory.mktemp(f"chosen-{request.param}-")


@pytest.fixture(scope="module")
def both(folder):
    return made(folder, int(folder.name.split("-")[1]))


@pytest.mark.parametrize("events", [1, 3, 8, 21])
def test_the_graph_counts_what_torch_s_routers_count_and_no_padding(both, events):
    network, served = both
    features, before = rows(events, seed=events), served.load.visits()
    served.logits(features, counted=True)
    np.testing.assert_array_equal(served.load.visits() - before, counted_by_torch(network, features))
    k = network.settings.chosen
    assert counted_by_torch(network, features).sum(1).tolist() == [
        events * plan_tokens(SPECS, SIZES).tokens * k,
        events * k,
    ]


def test_who_only_looks_is_not_counted(both):
    _, served = both
    before = served.load.visits()
    served.logits(rows(5))
    assert (served.load.visits() == before).all()


def test_a_bent_router_has_dead_and_crowded_experts(folder, both, tmp_path):
    model, k = onnx.load(folder / "moe.onnx"), both[0].settings.chosen
    bent = np.array([1e3, -1e3, 0, 0], np.float32)  # everybody visits expert 0, nobody 1
    for array in model.graph.initializer:
        if array.name.endswith(".router.bias"):
            array.CopyFrom(onnx.numpy_helper.from_array(bent, array.name))
    onnx.save(model, tmp_path / "bent.onnx")
    served = OnnxMoE(tmp_path / "bent.onnx", SPECS, buckets=(8,))
    served.logits(rows(400), counted=True)
    for layer in served.load.visits():
        assert (layer[0], layer[1]) == (layer.sum() / k, 0)
        assert dead(layer) == (layer == 0).sum() >= 1
        assert overflow(layer) == pytest.approx(4 / k - 1)
        assert entropy(layer) == pytest.approx(0) if k == 1 else 0.5 <= entropy(layer) < np.log(3) / np.log(4)
        assert is_enough(layer)


def test_a_file_that_does_not_tell_is_served_without_a_load(folder, both, tmp_path):
    network, served = both
    model = onnx.load(folder / "moe.onnx")
    del model.graph.output[1:]
    onnx.save(model, tmp_path / "old.onnx")
    old = OnnxMoE(tmp_path / "old.onnx", SPECS, buckets=(8,))
    assert old.load is None
    np.testing.assert_array_equal(old.logits(rows(8), counted=True), served.logits(rows(8)))
    tell_chosen(model, SIZES.layers)
    onnx.save(model, tmp_path / "new.onnx")
    again = OnnxMoE(tmp_path / "new.onnx", SPECS, buckets=(8,))
    again.logits(rows(8), counted=True)
    np.testing.assert_array_equal(again.load.visits(), counted_by_torch(network, rows(8)))
    with pytest.raises(OutputsError, match=r"the graph has 0 tensors that could be chosen_N, and 3 layers"):
        tell_chosen(onnx.ModelProto(), 3)


@torch.no_grad()
def test_an_inspection_sees_the_attention_of_the_equation(folder, both):
    network, _ = both
    expected = []

    def by_equation(layer, given, answer):  # softmax(q k^T / sqrt(d / h)) of the summary, mean of events and heads
        asking, seen = given[:2]
        q, k = layer.query(asking[:, 0]), layer.key_value(seen)[..., : seen.shape[2]]
        heads = [range(first, first + 8) for first in (0, 8)]
        shares = [torch.einsum("nd,ntd->nt", q[:, h], k[:, :, h]).div(8**0.5).softmax(-1).mean(0) for h in heads]
        expected.append(torch.stack(shares).mean(0).numpy())

    hooks = [block.attention.register_forward_hook(by_equation) for block in network.trunk.blocks]
    network.logits(torch.from_numpy(rows(300)))
    for hook in hooks:
        hook.remove()
    seen = Network((folder / "moe.onnx").read_bytes()).look(rows(300))
    np.testing.assert_allclose(seen.attention, np.stack(expected), atol=1e-5)
    np.testing.assert_array_equal(seen.load(), counted_by_torch(network, rows(300)))


def test_the_sizes_of_a_small_network_s_parts_are_those_of_torch(folder, both):
    learned = [(part_of(name), array) for name, array in both[0].state_dict().items() if array.is_floating_point()]
    parts = Network((folder / "moe.onnx").read_bytes()).parts()
    for part in parts:  # its arrays are so small that the export takes experts apart, which drops their names
        assert part.numbers == sum(array.numel() for each, array in learned if each == part.name), part.name


def test_threads_lose_no_visit():
    load, batch, events = ExpertLoad(2, 4), np.array([[0, 1], [2, 0]]), 50 * BATCHES_TOGETHER + 1
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: load.add([batch, batch[:1]], 1, 1), range(events)))
    assert load.visits().tolist() == [[2 * events, events, events, 0], [events, events, 0, 0]]


def test_recent_forgets_what_was_long_ago():
    load, first, then = ExpertLoad(1, 2), np.zeros((512, 1), np.int64), np.ones((512, 1), np.int64)
    for batch in [first] * (RECENT_EVENTS // 512) + [then] * (RECENT_EVENTS // 512 - 2):
        load.add([batch], 512, 512)
    assert load.recent().tolist() == [[RECENT_EVENTS, RECENT_EVENTS - 1024]]
    for _ in range(RECENT_EVENTS // 512 + 2):
        load.add([then], 512, 512)
    assert load.recent()[0, 0] == 0
    assert load.visits().tolist() == [[RECENT_EVENTS, 2 * RECENT_EVENTS]]
