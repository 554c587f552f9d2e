"""What serves must be what was trained: torch, the exported graph and the runtime agree, or nothing is written."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from models.export import export
from models.features import FeatureSpec
from models.moe.bins import learn_code, number_columns
from models.moe.network import MoENetwork, event_network
from models.moe.settings import MoESettings
from models.moe_runtime import OnnxMoE
from models.onnx_export import ExportError
from models.runtimes import RuntimeRefusedError, check_one_wheel

SIZES = MoESettings(width=32, heads=2, experts=4, expert_width=16, shared_width=16, bins=4, waves=2, members=2)
SPECS = [
    FeatureSpec("amount", group="payment"),
    FeatureSpec("country", "category", "payment"),
    FeatureSpec("count", group="card"),
    *(FeatureSpec(f"amount_{k}", group="seq", step=k) for k in (1, 2, 3)),
    FeatureSpec("place_2", "category", "place", 2),
]
CATEGORIES = np.array([spec.kind == "category" for spec in SPECS])


def rows(n: int, seed: int = 3) -> np.ndarray:
    chance = np.random.default_rng(seed)
    features = np.where(CATEGORIES, chance.integers(0, 1 << 32, (n, len(SPECS))), chance.normal(size=(n, len(SPECS))))
    features[chance.random(features.shape) < 0.2] = np.nan
    return features


def network(sizes: MoESettings = SIZES) -> MoENetwork:
    torch.manual_seed(1)
    made = event_network(SPECS, sizes).eval()
    inputs = number_columns(rows(500), np.zeros(500, np.uint8), made.encoders[0].plan, [spec.kind for spec in SPECS])
    made.encoders[0].load_codes(learn_code(*inputs, bins=sizes.bins))
    torch.nn.init.normal_(made.heads[0].b, std=0.3)  # scores spread over several units, as trained ones do
    return made


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    made, path = network(), tmp_path_factory.mktemp("export") / "model.onnx"
    return made, path, export(made, path, rows(100))


@pytest.fixture(scope="module")
def path(exported):
    return exported[1]


@pytest.fixture(scope="module")
def served(path) -> OnnxMoE:
    return OnnxMoE(path, SPECS, buckets=(1, 2, 4, 8))


@torch.no_grad()
def test_the_runtime_agrees_with_torch(served):
    features = rows(100, seed=8)
    expected = network().logits(torch.from_numpy(features)).double().numpy()
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(served.logits(features), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, 13, 21])
def test_a_score_does_not_depend_on_the_batch(served, batch):
    features = rows(21)
    parts = [served.logits(features[first : first + batch]) for first in range(0, 21, batch)]
    np.testing.assert_allclose(np.concatenate(parts), served.logits(features), atol=1e-6, rtol=0)


def test_no_events_give_no_scores(served):
    assert served.logits(np.zeros((0, len(SPECS)))).shape == (0,)


def test_rows_in_another_memory_order_score_the_same(served):
    features = rows(8)
    np.testing.assert_array_equal(served.logits(np.asfortranarray(features)), served.logits(features))
    np.testing.assert_array_equal(served.logits(rows(16)[::2]), served.logits(rows(16)[::2].copy()))


def test_threads_share_one_instance(served):
    batches = [rows(7, seed) for seed in range(16)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(served.logits, batches))
    for scored, batch in zip(together, batches, strict=True):
        np.testing.assert_array_equal(scored, served.logits(batch))


def test_infinite_values_never_reach_the_router(served):
    features = rows(3)
    features[2, 3] = -np.inf
    with pytest.raises(ValueError, match="feature 'amount_1' of event 2 is -inf; give NaN"):
        served.logits(features)


def test_the_wrong_number_of_columns_is_refused(served):
    with pytest.raises(ValueError, match=r"features are \(4, 2\); the model takes \(events, 7\)"):
        served.logits(np.zeros((4, 2)))


def test_a_model_of_other_columns_is_refused(path):
    with pytest.raises(RuntimeRefusedError, match="takes 7 columns and is given 6; train it on this task"):
        OnnxMoE(path, SPECS[:-1])
    with pytest.raises(RuntimeRefusedError, match=r"column 2 of .* is 'count' .* and the task gives 'sum'"):
        OnnxMoE(path, [*SPECS[:2], replace(SPECS[2], name="sum"), *SPECS[3:]])


def test_a_file_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(RuntimeRefusedError, match="there is no model file"):
        OnnxMoE(tmp_path / "none.onnx", SPECS)
    (tmp_path / "torn.onnx").write_bytes(b"torn")
    with pytest.raises(RuntimeRefusedError, match=r"torn\.onnx is not a model that ONNX Runtime can load"):
        OnnxMoE(tmp_path / "torn.onnx", SPECS)


@pytest.mark.parametrize("buckets", [(), (0, 1), (4, 2), (2, 2)])
def test_buckets_must_ascend(path, buckets):
    with pytest.raises(RuntimeRefusedError, match="give ascending batch sizes above zero"):
        OnnxMoE(path, SPECS, buckets=buckets)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_required_gpu_that_is_missing_refuses_to_start_without_noise(path, capfd):
    with pytest.raises(RuntimeRefusedError, match="a GPU is required, and none can be used here"):
        OnnxMoE(path, SPECS, gpu="require")
    assert OnnxMoE(path, SPECS, gpu="prefer", buckets=(1,)).provider == "cpu"
    assert capfd.readouterr() == ("", "")


def test_one_wheel_is_installed_here():
    check_one_wheel()


def test_the_file_is_small_standard_and_says_what_it_takes(path):
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert [op.version for op in model.opset_import if op.domain == ""] == [20]
    notes = {prop.key: prop.value for prop in model.metadata_props}
    assert set(notes) == {"pelton.columns", "pelton.sizes", "pelton.weights"}
    assert b"/site-packages/" not in path.read_bytes()


def test_a_graph_that_differs_from_torch_is_not_written(tmp_path):
    amplified = network()
    amplified.heads[0].b.data *= 1e4  # rounding, made visible
    with pytest.raises(ExportError, match=r"ONNX Runtime and torch differ by .* so nothing was written"):
        export(amplified, tmp_path / "model.onnx", rows(10))
    assert list(tmp_path.iterdir()) == []


def test_a_file_too_large_for_the_bundle_is_not_written(tmp_path):
    with pytest.raises(ExportError, match=r"more than 12,000,000; choose fewer experts"):
        export(network(replace(SIZES, buckets=1 << 17)), tmp_path / "model.onnx", rows(10))
    assert list(tmp_path.iterdir()) == []


@torch.no_grad()
def test_exporting_leaves_the_network_as_it_was(exported):
    features = torch.from_numpy(rows(5))
    assert torch.equal(exported[0].logits(features), network().logits(features))


def test_the_gate_saw_every_hard_case(exported):
    seen = exported[2].differences
    assert max(seen.values()) <= 1e-5
    cases = [
        f"{case}batch {n}" for case in ("", "ties, ", "an empty expert, ", "all to one expert, ") for n in (1, 7, 64)
    ]
    assert set(seen) == {f"logits, {case}" for case in (*cases, "nulls", "all null", "far out")}


def test_the_gate_needs_rows(tmp_path):
    with pytest.raises(ExportError, match="the parity gate got no feature rows"):
        export(network(), tmp_path / "model.onnx", rows(0))
