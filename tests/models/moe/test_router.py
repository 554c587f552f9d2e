import pytest
import torch

from models.moe.router import Router


@pytest.fixture
def router() -> Router:
    torch.manual_seed(5)
    return Router(width=8, experts=6, chosen=2)


def test_weights_are_the_chosen_scores_without_the_bias(router):
    rows = torch.randn(50, 8)
    router.bias += torch.tensor([5.0, 0, 0, 0, 0, 0])  # expert 0 is now always chosen
    weights, ids, _ = router(rows)
    assert (ids[:, 0] == 0).all()
    scores = torch.sigmoid(rows @ router.weight)
    expected = scores.gather(1, ids) / scores.gather(1, ids).sum(1, keepdim=True)
    torch.testing.assert_close(weights, expected)


def test_equal_scores_take_the_lowest_experts(router):
    router.weight.data.zero_()
    _, ids, _ = router(torch.randn(9, 8))
    assert ids.tolist() == [[0, 1]] * 9


def test_agrees_with_sorting_the_scores(router):
    rows = torch.randn(200, 8)
    _, ids, _ = router(rows)
    ranked = (torch.sigmoid(rows @ router.weight) + router.bias).argsort(dim=1, descending=True)
    assert torch.equal(ids, ranked[:, :2])


def test_rebalancing_moves_against_the_load_and_keeps_the_mean(router):
    router.rebalance(torch.tensor([10, 0, 4, 4, 4, 2]), step=0.1)
    assert router.bias.mean().abs() < 1e-7
    assert router.bias[0] < router.bias[2] < router.bias[1]
    # overloaded by 6 or short by 4: the size of the step is the same, only the sign counts
    assert (router.bias[1] - router.bias[5]).abs() < 1e-7


def test_an_even_load_has_balance_loss_one_and_a_collapsed_one_more(router):
    router.weight.data.zero_()
    _, _, even = router(torch.randn(64, 8))  # mean scores are even: the loss is 1 whoever is chosen
    assert even.balance_loss.item() == pytest.approx(1)
    router.weight.data[:, :2] = 5
    _, _, crowded = router(torch.ones(64, 8))
    assert crowded.visits.tolist() == [64, 64, 0, 0, 0, 0]
    assert crowded.balance_loss.item() > 1.2


def test_evaluation_counts_nothing(router):
    assert router.eval()(torch.randn(3, 8))[2] is None


def test_scores_stay_fp32_under_autocast(router):
    with torch.autocast("cpu", torch.bfloat16):
        weights, _, _ = router(torch.randn(3, 8))
    assert weights.dtype == torch.float32
