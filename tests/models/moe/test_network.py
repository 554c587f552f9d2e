import numpy as np
import pytest
import torch

from models.features import FeatureSpec
from models.moe.bins import NumberCode
from models.moe.encoder import CategoryEncoder, NumberEncoder
from models.moe.experts import SparseExperts, swiglu
from models.moe.network import MoENetwork, event_network
from models.moe.settings import MoESettings

SMALL = MoESettings(width=16, heads=2, experts=4, expert_width=8, shared_width=8, bins=4, waves=2, buckets=8, members=2)
SPECS = [
    FeatureSpec("amount", group="payment"),
    FeatureSpec("country", "category", "payment"),
    FeatureSpec("count", group="card"),
    *(FeatureSpec(f"amount_{k}", group="seq", step=k) for k in (1, 2, 3)),
    *(FeatureSpec(f"place_{k}", "category", "place", k) for k in (1, 3)),
]


def rows(n: int, seed: int = 3) -> torch.Tensor:
    chance = np.random.default_rng(seed)
    features = chance.normal(size=(n, len(SPECS)))
    for column, spec in enumerate(SPECS):
        if spec.kind == "category":
            features[:, column] = chance.integers(0, 1 << 32, n)
    features[chance.random(features.shape) < 0.2] = np.nan
    return torch.from_numpy(features)


@pytest.fixture
def network() -> MoENetwork:
    torch.manual_seed(1)
    return event_network(SPECS, SMALL).eval()


@torch.no_grad()
def test_sparse_experts_agree_with_asking_every_expert(network):
    layer = SparseExperts(SMALL).eval()
    x = torch.randn(33, 16)
    weights, ids, _ = layer.router(x)
    expected = swiglu(x, layer.shared_up, layer.shared_down)
    for expert in range(4):
        share = (weights * (ids == expert)).sum(1, keepdim=True)  # 0 where not chosen
        expected = expected + share * swiglu(x, layer.up[expert], layer.down[expert])
    torch.testing.assert_close(layer(x)[0], expected)


@torch.no_grad()
def test_an_event_scores_the_same_alone_and_in_company(network):
    features = rows(40)
    together = network.logits(features)
    alone = torch.cat([network.logits(features[i : i + 1]) for i in range(40)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


@torch.no_grad()
def test_every_column_and_every_null_matters(network):
    features = rows(60)
    for column in range(len(SPECS)):
        known = features.nan_to_num(1.0)
        missing = known.clone()
        missing[:, column] = torch.nan
        assert (network.logits(known) - network.logits(missing)).abs().max() > 1e-6, SPECS[column].name


def test_gradients_reach_every_parameter(network):
    network.train()
    members, routings = network(rows(256))
    (members.square().mean() + sum(r.balance_loss + r.z_loss for r in routings)).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    assert len(routings) == 2
    # the last block routes only the summary token
    assert [int(r.visits.sum()) for r in routings] == [256 * network.encoders[0].plan.tokens * 2, 256 * 2]


@torch.no_grad()
def test_a_number_is_coded_as_pieces_waves_value_and_flag():
    encoder = NumberEncoder(1, bins=2, waves=1, dropout=0.0)
    encoder.load_code(
        NumberCode(np.array([10.0]), np.array([0.5]), np.array([[-1, 1]], np.float32), np.array([[0.5, 1]], np.float32))
    )
    encoder.frequencies.fill_(0.25)
    code = encoder(torch.tensor([[10.0], [13.0], [1e300], [torch.nan]], dtype=torch.float64))[:, 0]
    # 10 is z 0: half of the first piece [-1, 1]; 13 is z 1.5: all of it and half of [1, 2]
    torch.testing.assert_close(code[0], torch.tensor([0.5, 0, 0, 1, 0, 0]))
    torch.testing.assert_close(code[1, :2], torch.tensor([1, 0.5]))
    assert code[2, :2].tolist() == [1, 1]
    assert code[2, 4].item() == pytest.approx(3, abs=1e-3)  # squashed, not exploded
    assert code[3].tolist() == [0, 0, 0, 0, 0, 1]


@torch.no_grad()
def test_large_offsets_keep_their_digits():
    encoder = NumberEncoder(1, bins=1, waves=0, dropout=0.0)
    shift = 1.7e12  # milliseconds since the epoch: float32 would round to two minutes
    encoder.load_code(
        NumberCode(np.array([shift]), np.array([1.0]), np.zeros((1, 1), np.float32), np.ones((1, 1), "f"))
    )
    code = encoder(torch.tensor([[shift + 0.25]], dtype=torch.float64))
    assert code[0, 0, 0].item() == pytest.approx(0.25, abs=1e-3)


@torch.no_grad()
def test_hashes_find_their_row_and_null_finds_row_zero():
    encoder = CategoryEncoder(2, buckets=8, width=1, dropout=0.0).eval()
    encoder.table.copy_(torch.arange(18.0).unsqueeze(1))
    found = encoder(torch.tensor([[0.0, 7.0], [2.0**32 - 1, torch.nan]], dtype=torch.float64))[..., 0]
    # row 0 of each table of 9 is null, then the hash modulo 8
    assert found.tolist() == [[1, 9 + 8], [8, 9]]


@pytest.mark.parametrize("kind", ["number", "category"])
def test_one_kind_of_column_alone_is_enough(kind):
    specs = [FeatureSpec("a", kind), FeatureSpec("b", kind, "s", 1)]
    logits = event_network(specs, SMALL).eval().logits(torch.ones(5, 2, dtype=torch.float64))
    assert logits.shape == (5,)


def test_a_sequence_alone_is_enough():
    network = event_network([FeatureSpec("b", "number", "s", 2)], SMALL).eval()
    assert network.logits(torch.ones(5, 1, dtype=torch.float64)).shape == (5,)


def test_no_events_give_no_logits(network):
    assert network.logits(rows(0)).shape == (0,)


def test_default_sizes_fit_the_bundle():
    specs = [FeatureSpec(f"f{i}", group=str(i % 6)) for i in range(40)]
    parameters = sum(p.numel() for p in event_network(specs, MoESettings()).parameters())
    assert parameters * 4 < 10_000_000


@torch.no_grad()
def test_training_hides_a_share_of_the_values_and_serving_none(network):
    torch.manual_seed(0)
    encoder = NumberEncoder(4, bins=1, waves=0, dropout=0.25)
    values = torch.zeros(1000, 4, dtype=torch.float64)
    assert encoder(values)[..., -1].mean().item() == pytest.approx(0.25, abs=0.03)
    assert encoder.eval()(values)[..., -1].sum() == 0


def test_half_precision_trains(network):
    # what a GPU does; the CPU's autocast follows the same rules about types
    network.train()
    with torch.autocast("cpu", torch.bfloat16):
        members, routings = network(rows(64))
    (members.float().square().mean() + sum(r.z_loss for r in routings)).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    network.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = network.logits(rows(64))
    with torch.no_grad():
        torch.testing.assert_close(rounded, network.logits(rows(64)), atol=0.1, rtol=0.1)
