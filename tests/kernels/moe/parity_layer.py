"""The whole layer against its twin. Run by test_moe_kernels.py, in a process whose Triton interprets or has a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.moe.experts import SparseExperts
from models.moe.settings import MoESettings
from tests.kernels.moe.cases import DEVICE, TYPES, close, layer, unit_rows

from kernels.moe import check, flags_for, sparse_experts  # isort: skip: cases skips where Triton is missing

each_type = pytest.mark.parametrize("dtype", TYPES, ids=str)


@each_type
@pytest.mark.parametrize("n", [0, 1, 2, 4, 5, 33, 50])
def test_agrees_with_its_twin_at_any_number_of_rows(dtype, n):
    case, rows = layer(dtype=dtype), unit_rows(n, dtype=dtype)
    found = case.answer(rows)
    assert found.shape == rows.shape
    assert found.dtype == dtype
    if n:
        close(found, case.expected(rows), dtype)


def test_bf16():
    # the interpreter multiplies the raw bits of bf16, so tiles are widened there: what a GPU does is tested on one
    case, rows = layer(dtype=torch.bfloat16), unit_rows(20, dtype=torch.bfloat16)
    close(case.answer(rows), case.expected(rows), torch.bfloat16)


@settings(max_examples=12)
@given(n=st.integers(1, 24), d=st.integers(1, 40), e=st.integers(1, 6), f=st.integers(1, 24), g=st.integers(1, 24),
       data=st.data())  # fmt: skip
def test_agrees_with_its_twin_at_any_sizes(n, d, e, f, g, data):
    chosen = data.draw(st.integers(1, e), label="chosen")
    case, rows = layer(d, e, f, g, chosen), unit_rows(n, d)
    close(case.answer(rows), case.expected(rows), torch.float32)


@pytest.mark.parametrize("n", [3, 40])
@pytest.mark.parametrize("open_to", [[0], [1, 4], [0, 1, 2, 4, 5, 6, 7]], ids=["all to one", "two", "one empty"])
def test_agrees_with_its_twin_when_experts_are_idle(n, open_to):
    case, rows = layer(chosen=min(2, len(open_to))), unit_rows(n)
    allowed = torch.zeros(8, dtype=torch.bool, device=DEVICE)
    allowed[open_to] = True
    close(case.answer(rows, allowed=allowed), case.expected(rows, allowed=allowed), torch.float32)


@pytest.mark.parametrize(("n", "per_choice"), [(4, 1), (42, 1), (3, 3), (42, 7)])
@pytest.mark.parametrize("padded", [False, True])
def test_padding_and_one_choice_for_many_rows(n, per_choice, padded):
    case, rows = layer(), unit_rows(n)
    present = torch.arange(n, device=DEVICE) % 5 < 3 if padded else None
    if padded and per_choice == 7:
        present[7:14] = False  # an example of nothing but padding
    more = {"present": present, "per_choice": per_choice}
    close(case.answer(rows, **more), case.expected(rows, **more), torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("per_choice", [1, 6])
def test_the_network_gives_them_what_it_would_compute(per_choice):
    torch.manual_seed(3)
    network = (
        SparseExperts(MoESettings(width=16, heads=2, experts=5, expert_width=24, shared_width=8)).to(DEVICE).eval()
    )
    network.router.bias += torch.tensor([0.3, 0, 0, -0.3, 0], device=DEVICE)
    rows = unit_rows(30, 16)
    allowed = torch.tensor([True, True, False, True, True], device=DEVICE)
    present = torch.arange(30, device=DEVICE) % 6 < 4
    for more in ({}, {"allowed": allowed}, {"allowed": allowed, "present": present}):
        given = {"allowed": None, "present": None, "per_choice": per_choice} | more
        with torch.enable_grad():  # then no kernels
            expected, _ = network(rows, **given)
        close(network._by_kernels(rows, **given), expected.detach(), torch.float32)


def test_sixty_four_rows_a_block():
    case, rows = layer(d=16, e=2, f=16, g=16, chosen=1), unit_rows(150, 16)  # 75 visits an expert: the large tiles
    close(case.answer(rows), case.expected(rows), torch.float32)


@pytest.mark.parametrize("n", [3, 40])
def test_says_the_same_bits_again(n):
    case, rows = layer(), unit_rows(n)
    assert torch.equal(case.answer(rows), case.answer(rows))


@each_type
def test_a_row_has_the_same_answer_in_any_company(dtype):
    case, rows = layer(dtype=dtype), unit_rows(70, dtype=dtype)
    together = case.answer(rows)
    for n in (1, 4, 5, 33):
        close(case.answer(rows[:n]), together[:n], dtype)


def test_a_slice_of_wider_rows_is_taken_as_it_is():
    case, wide = layer(), unit_rows(6, 64)
    assert torch.equal(case.answer(wide[:, 16:48]), case.answer(wide[:, 16:48].contiguous()))


@pytest.mark.parametrize("n", [3, 40])
def test_a_row_that_is_not_finite_is_refused_before_any_expert(n):
    case, rows = layer(), unit_rows(n)
    rows[2, 5] = float("nan")
    with pytest.raises(ValueError, match=r"a row is not finite \(NaN or infinite\), or its router scores are not"):
        case.answer(rows)


@pytest.mark.parametrize("n", [3, 40])
def test_with_flags_nothing_waits_and_a_refused_row_answers_nan(n):
    case, rows, flags = layer(), unit_rows(n), flags_for(torch.device(DEVICE))
    clean = case.answer(rows, flags=flags)
    check(flags)
    rows[1] = float("inf")
    found = case.answer(rows, flags=flags)
    assert found[1].isnan().all()
    assert torch.equal(found[2:], clean[2:])
    case.answer(unit_rows(n), flags=flags)  # what was raised stays raised
    with pytest.raises(ValueError, match="a row is not finite"):
        check(flags)


@pytest.mark.parametrize("n", [3, 40])
def test_a_finite_row_that_is_refused_answers_nan_too(n):
    case, flags = layer(), flags_for(torch.device(DEVICE))
    allowed = torch.ones(n, 8, dtype=torch.bool, device=DEVICE)
    allowed[1, 1:] = False
    found = case.answer(unit_rows(n), allowed=allowed, flags=flags)
    assert found.isnan().any(1).nonzero().flatten().tolist() == [1]
    assert flags.tolist() == [0, 1]


def test_too_few_allowed_experts_are_refused():
    case, allowed = layer(), torch.zeros(8, dtype=torch.bool, device=DEVICE)
    allowed[3] = True
    with pytest.raises(ValueError, match="a row may visit fewer experts than it has to choose; allow at least as many"):
        case.answer(unit_rows(7), allowed=allowed)


@pytest.mark.parametrize(("change", "message"), [
    ({"router": torch.zeros(31, 8)}, r"router_weight is \(31, 8\); rows \(5, 32\) and up need \(32, 8\)"),
    ({"down": torch.zeros(8, 16, 32, dtype=torch.float16)}, "down is torch.float16, rows torch.float32; give"),
    ({"up": torch.zeros(8, 32, 32).mT}, r"up is not contiguous; call .contiguous\(\) once"),
    ({"chosen": 9}, "chosen is 9; choose between 1 and 8, the number of experts"),
])  # fmt: skip
def test_what_does_not_fit_is_told(change, message):
    case = layer()
    given = {
        name: getattr(case, name) for name in ("router", "bias", "up", "down", "shared_up", "shared_down", "chosen")
    }
    moved = {name: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for name, value in change.items()}
    with pytest.raises(ValueError, match=message):
        sparse_experts(unit_rows(5), *(given | moved).values())


def test_a_mask_of_another_size_is_told():
    with pytest.raises(ValueError, match=r"allowed is torch.bool \(7,\); give bool, \(8,\) or \(5, 8\)"):
        layer().answer(unit_rows(5), allowed=torch.ones(7, dtype=torch.bool, device=DEVICE))


def test_examples_of_different_length_are_told():
    with pytest.raises(ValueError, match="per_choice is 2, which does not divide 5 rows"):
        layer().answer(unit_rows(5), per_choice=2)
    with pytest.raises(ValueError, match=r"present is torch.bool \(4,\); give bool, \(5,\)"):
        layer().answer(unit_rows(5), present=torch.ones(4, dtype=torch.bool, device=DEVICE))


@pytest.mark.skipif(DEVICE == "cpu", reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("n", [3, 300])
def test_a_captured_graph_answers_new_rows(n):
    case, rows, flags = layer(), unit_rows(n), flags_for(torch.device(DEVICE))
    case.answer(rows, flags=flags)  # compiled before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = case.answer(rows, flags=flags)
    for seed in (5, 6):
        rows.copy_(unit_rows(n, seed=seed))
        graph.replay()
        close(found, case.expected(rows), torch.float32)
    rows[1] = float("nan")
    graph.replay()
    assert found[1].isnan().all()
    with pytest.raises(ValueError, match="a row is not finite"):
        check(flags)
