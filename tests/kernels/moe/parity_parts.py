"""Each kernel against its twin. Run by test_moe_kernels.py, in a process whose Triton interprets or has a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.moe.cases import DEVICE, TYPES, close, exact_router, exact_rows, layer, unit_rows

from kernels.moe import alignment, flags_for, products, router, twins  # isort: skip: cases skips where Triton is missing
from kernels.moe.launching import Tiles, blocks_max, route_tiles

each_type = pytest.mark.parametrize("dtype", TYPES, ids=str)


def routed(rows, weight, bias, chosen, allowed=None, present=None):
    flags = flags_for(rows.device)
    return (*router.route(rows, weight, bias, chosen, allowed, present, flags), flags.tolist())


@each_type
@pytest.mark.parametrize(("n", "e", "chosen"), [(1, 8, 2), (37, 6, 3), (32, 16, 1), (5, 5, 5)])
def test_the_router_chooses_and_weighs_like_its_twin(dtype, n, e, chosen):
    case = layer(d=40, e=e, chosen=chosen)
    rows = unit_rows(n, 40, dtype)
    weights, ids, counts, flags = routed(rows, case.router, case.bias, chosen)
    twin_weights, twin_ids, twin_flags = twins.route(rows, case.router, case.bias, chosen)
    assert torch.equal(ids, twin_ids)
    torch.testing.assert_close(weights, twin_weights, atol=1e-6, rtol=0)
    assert torch.equal(counts, alignment.count(ids, e))
    assert counts.sum(0).tolist() == torch.bincount(ids.flatten(), minlength=e).tolist()
    assert flags == twin_flags == [0, 0]


@settings(max_examples=20)
@given(n=st.integers(1, 40), d=st.integers(1, 20), e=st.integers(1, 9), data=st.data())
def test_equal_scores_take_the_lowest_experts(n, d, e, data):
    chosen, seed = data.draw(st.integers(1, e), label="chosen"), data.draw(st.integers(0, 99), label="seed")
    rows, weight, bias = exact_rows(n, d, seed), exact_router(d, e, seed), torch.zeros(e, device=DEVICE)
    open_to = torch.rand(n, e, generator=torch.Generator().manual_seed(seed)).to(DEVICE) < 0.8
    open_to[:, :chosen] = True
    for allowed in (None, open_to):
        weights, ids, _, flags = routed(rows, weight, bias, chosen, allowed)
        twin_weights, twin_ids, _ = twins.route(rows, weight, bias, chosen, allowed)
        assert torch.equal(ids, twin_ids)
        torch.testing.assert_close(weights, twin_weights, atol=1e-6, rtol=0)
        assert flags == [0, 0]


def test_all_scores_equal():
    _, ids, _, _ = routed(unit_rows(9, 8), torch.zeros(8, 6, device=DEVICE), torch.zeros(6, device=DEVICE), 3)
    assert ids.tolist() == [[0, 1, 2]] * 9


def test_the_bias_changes_who_is_chosen_and_never_a_weight():
    case, rows = layer(e=6), unit_rows(20)
    bias = torch.tensor([0.0, 0, 0, 0, 0, 5], device=DEVICE)  # expert 5 is now always the first
    weights, ids, _, _ = routed(rows, case.router, bias, 2)
    scores = torch.sigmoid(rows @ case.router).gather(1, ids.long())
    assert (ids[:, 0] == 5).all()
    torch.testing.assert_close(weights, scores / scores.sum(1, keepdim=True), atol=1e-6, rtol=0)


def test_a_mask_for_all_rows_is_the_mask_of_each():
    case, rows = layer(e=6), unit_rows(20)
    allowed = torch.tensor([True, False, True, True, False, False], device=DEVICE)
    one, each = (
        routed(rows, case.router, case.bias, 2, mask) for mask in (allowed, allowed.expand(20, 6).contiguous())
    )
    assert torch.equal(one[1], each[1])
    assert set(one[1].flatten().tolist()) == {0, 2, 3}


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_is_told_and_weighs_nan(wrong):
    case, rows = layer(), unit_rows(35)
    rows[33, 7] = wrong
    weights, ids, counts, flags = routed(rows, case.router, case.bias, 2)
    clean, _, _, _ = routed(unit_rows(35), case.router, case.bias, 2)
    assert flags == [1, 0]
    assert weights[33].isnan().all()
    assert ids[33].tolist() == [0, 1]  # so that the alignment still holds
    assert torch.equal(weights[:33], clean[:33])
    assert counts.sum() == 70


def test_a_row_that_may_visit_too_few_is_told():
    case, allowed = layer(e=8), torch.ones(5, 8, dtype=torch.bool, device=DEVICE)
    allowed[3, 1:] = False
    weights, ids, _, flags = routed(unit_rows(5), case.router, case.bias, 2, allowed)
    assert flags == twins.route(unit_rows(5), case.router, case.bias, 2, allowed)[2] == [0, 1]
    assert weights[3].isnan().all()
    assert not weights[:3].isnan().any()
    assert len(set(ids[3].tolist())) == 2


def test_padding_visits_nobody_and_may_hold_anything():
    case, rows = layer(e=5), unit_rows(40)
    present = torch.arange(40, device=DEVICE) % 3 > 0
    rows[~present] = float("nan")
    weights, ids, counts, flags = routed(rows, case.router, case.bias, 2, None, present)
    twin_weights, twin_ids, _ = twins.route(rows, case.router, case.bias, 2, None, present)
    assert flags == [0, 0]
    assert torch.equal(ids, twin_ids)
    torch.testing.assert_close(weights, twin_weights, atol=1e-6, rtol=0)
    assert counts.sum() == 2 * present.sum()


def aligned(ids, e, rows):
    return alignment.align(ids, alignment.count(ids, e), rows)


def same_alignment(found, ids, e, rows):
    order, blocks = twins.align(ids, e, rows)
    mapped = list(zip(found.expert.tolist(), found.first.tolist(), found.size.tolist(), strict=True))
    visits = int((ids < e).sum())
    assert found.order[:visits].tolist() == order[:visits].tolist()
    assert mapped[: len(blocks)] == blocks
    assert all(size == 0 for _, _, size in mapped[len(blocks) :])
    assert len(mapped) == blocks_max(ids.numel(), e, rows)


@settings(max_examples=20)
@given(n=st.integers(1, 90), e=st.integers(1, 9), rows=st.sampled_from([1, 4, 16]), data=st.data())
def test_visits_are_sorted_by_expert_and_cut_into_blocks(n, e, rows, data):
    chosen, seed = data.draw(st.integers(1, e), label="chosen"), data.draw(st.integers(0, 99), label="seed")
    order = torch.rand(n, e, generator=torch.Generator().manual_seed(seed)).argsort(1)
    ids = order[:, :chosen].int().to(DEVICE)
    ids[seed % n] = e  # a row of padding
    same_alignment(aligned(ids, e, rows), ids, e, rows)


@pytest.mark.parametrize("ids", [[[3]] * 50, [[0, 2]] * 33, [[1, 0], [1, 3], [3, 0]]], ids=["all to one", "two", "few"])
def test_idle_experts_have_no_block(ids):
    ids = torch.tensor(ids, dtype=torch.int32, device=DEVICE)
    same_alignment(aligned(ids, 4, 16), ids, 4, 16)


def test_more_parts_and_blocks_than_one_program_looks_at():
    n = 33 * route_tiles(4).rows * 2 + 5  # 67 parts of the router, 134 blocks or more
    ids = (torch.arange(n, dtype=torch.int32, device=DEVICE) * 7 % 4).unsqueeze(1)
    same_alignment(aligned(ids, 4, 16), ids, 4, 16)


@each_type
@pytest.mark.parametrize(("n", "d", "f", "rows"), [(21, 32, 16, 16), (70, 24, 20, 64), (9, 80, 70, 16)])
def test_products_agree_with_their_twins(dtype, n, d, f, rows):
    case = layer(d=d, e=4, f=f, g=f + 4, dtype=dtype)
    x, tiles = unit_rows(n, d, dtype), Tiles(rows, 32, 32)
    weights, ids, _, _ = routed(x, case.router, case.bias, 2)
    plan = aligned(ids, 4, rows)
    hidden = products.gather_up(x, case.up, plan, 2, tiles)
    close(hidden, twins.gather_up(x, case.up, ids), dtype)
    answers = products.weighted_down(hidden, case.down, weights, plan, tiles)
    close(answers, twins.weighted_down(hidden, case.down, weights, ids), torch.float32)
    shared = products.shared_up(x, case.shared_up)
    close(shared, twins.shared_up(x, case.shared_up), dtype)
    weights[3] = 0.0
    answers[6:8] = float("nan")  # of row 3: never written, and not to be read
    whole = products.combine(answers, weights, shared, case.shared_down)
    close(whole, twins.combine(answers, weights, shared, case.shared_down), dtype)
