from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from models.features import FeatureSpec
from models.moe.experts import swiglu
from models.moe.network import Branch, MoENetwork, cut_out, event_branch, event_network
from models.moe.router import balance_loss
from models.moe.settings import MoESettings
from models.moe.trunk import Trunk, share_out

SMALL = MoESettings(
    width=16, heads=2, layers=2, experts=8, expert_width=8, shared_width=8, bins=4, waves=2, buckets=8, members=2
)
SPECS = [FeatureSpec("amount", group="payment"), FeatureSpec("country", "category", "payment"), FeatureSpec("gap")]
TASKS = ["risk", "support", "defect"]


def trunk(seed: int = 1) -> Trunk:
    torch.manual_seed(seed)
    made = Trunk(SMALL, share_out(TASKS, 8, private=1)).eval()
    for router in made.routers():
        router.bias.uniform_(-0.3, 0.3)
    return made


def padded(n: int = 6, t: int = 5, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, t + 1, (n,), generator=chance)
    return torch.randn(n, t, 16, generator=chance), torch.arange(t) < lengths.unsqueeze(1)


def one_example(trunk: Trunk, x: torch.Tensor, task: str, whole: bool) -> torch.Tensor:
    """What the trunk computes of one example (t, d) without padding, in words as plain as possible."""
    for block in trunk.blocks:
        seen = block.attention_norm(x)
        attention, answers = block.attention, []
        for token in seen:
            of_heads = []
            keys, values = attention.key_value(seen).chunk(2, dim=1)
            for q, k, v in zip(attention.query(token).chunk(2), keys.chunk(2, 1), values.chunk(2, 1), strict=True):
                of_heads.append((k @ q / 8**0.5).softmax(0) @ v)
            answers.append(attention.out(torch.cat(of_heads)))
        x = x + torch.stack(answers)
        rows, layer = block.experts_norm(x), block.experts
        answers = []
        for row in rows:
            scores = ((rows.mean(0) if whole else row) @ layer.router.weight).sigmoid()
            ranked = sorted(trunk.experts_of(task), key=lambda i: (-float(scores[i] + layer.router.bias[i]), i))
            chosen = ranked[: SMALL.chosen]
            answer = swiglu(row[None], layer.shared_up, layer.shared_down)
            for i in chosen:
                share = scores[i] / sum(scores[j] for j in chosen)
                answer = answer + share * swiglu(row[None], layer.up[i], layer.down[i])
            answers.append(answer[0])
        x = x + torch.stack(answers)
    return trunk.norm(x)


@torch.no_grad()
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("whole", [False, True])
def test_agrees_with_one_example_after_another_without_its_padding(task, whole):
    shared, (x, present) = trunk(), padded()
    answers, routings = shared(x, task, present, whole=whole, every_token=True)
    assert answers.shape == x.shape
    assert routings == []  # only while training
    for each, answer, here in zip(x, answers, present, strict=True):
        torch.testing.assert_close(answer[here], one_example(shared, each[here], task, whole), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("whole", [False, True])
def test_what_stands_in_padding_changes_nothing(whole):
    shared, (x, present) = trunk(), padded()
    other = torch.where(present.unsqueeze(2), x, 1e3)
    first, second = (shared(each, "risk", present, whole, every_token=True)[0] for each in (x, other))
    torch.testing.assert_close(first[present], second[present], atol=0, rtol=0)


@torch.no_grad()
def test_the_summary_alone_is_the_first_of_every_token():
    shared, (x, present) = trunk(), padded()
    summary = shared(x, "risk", present)[0]
    assert summary.shape == (6, 16)
    torch.testing.assert_close(summary, shared(x, "risk", present, every_token=True)[0][:, 0], atol=1e-6, rtol=0)


@torch.no_grad()
def test_examples_that_are_all_present_need_no_mask():
    shared, (x, _) = trunk(), padded()
    everywhere = torch.ones(x.shape[:2], dtype=torch.bool)
    torch.testing.assert_close(shared(x, "risk", everywhere)[0], shared(x, "risk")[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("whole", [False, True])
def test_padding_is_not_counted(whole):
    shared, (x, present) = trunk().train(), padded()
    _, (first, last) = shared(x, "risk", present, whole, every_token=True)
    assert int(first.visits.sum()) == int(last.visits.sum()) == 2 * int(present.sum()) < 2 * present.numel()
    assert float(first.share.sum()) == pytest.approx(1)
    assert float(first.mean_score.detach().sum()) == pytest.approx(1)


def test_a_mask_that_hides_nothing_counts_the_same():
    shared, (x, present) = trunk().train(), padded()
    here = torch.ones_like(present)
    torch.manual_seed(0)
    _, without = shared(x, "risk")
    torch.manual_seed(0)
    _, with_mask = shared(x, "risk", here)
    for one, other in zip(without, with_mask, strict=True):
        assert one.visits.tolist() == other.visits.tolist()
        torch.testing.assert_close(one.balance_loss, other.balance_loss)
        torch.testing.assert_close(one.z_loss, other.z_loss)


def test_a_whole_example_goes_to_the_same_experts():
    shared, (x, _) = trunk().train(), padded(n=1)
    _, routings = shared(x, "defect", whole=True, every_token=True)
    assert all(sorted(r.visits.tolist()) == [0] * 6 + [5, 5] for r in routings)


@pytest.mark.parametrize("task", TASKS)
def test_no_task_visits_what_belongs_to_another(task):
    shared, (x, present) = trunk().train(), padded(n=40)
    forbidden = [i for i in range(8) if i not in shared.experts_of(task)]
    assert len(forbidden) == 2
    for router in shared.routers():
        router.bias[forbidden] = 1e3  # most wanted, and still not allowed
    _, routings = shared(x, task, present)
    for routing in routings:
        assert routing.visits[forbidden].tolist() == routing.mean_score[forbidden].tolist() == [0, 0]
    sum(r.balance_loss + r.z_loss for r in routings).backward()
    for router in shared.routers():
        assert torch.isfinite(router.weight.grad).all()
        assert router.weight.grad[:, forbidden].abs().sum() == 0


def test_it_is_the_load_of_all_tasks_together_that_ought_to_be_even():
    # two tasks that each use one half of the experts are even together, and neither is alone
    shared, (x, present) = trunk().train(), padded()
    _, (of_risk, _) = shared(x, "risk", present)
    low = replace(of_risk, share=torch.tensor([0.25] * 4 + [0] * 4), mean_score=torch.tensor([0.25] * 4 + [0] * 4))
    high = replace(of_risk, share=low.share.flip(0), mean_score=low.mean_score.flip(0))
    assert balance_loss([low]).item() == balance_loss([high]).item() == low.balance_loss.item() == 2
    assert balance_loss([low, high]).item() == 1
    # visits and scores both count together: here the scores are uneven and the visits are not, and the reverse
    assert balance_loss([low, replace(low, share=high.share)]).item() == 1
    assert balance_loss([low, replace(low, mean_score=high.mean_score)]).item() == 1


def test_experts_are_shared_out():
    assert share_out(["risk"], 16) == {"risk": None}
    allowed = share_out(TASKS, 16)
    assert allowed["support"] == (*range(10), 12, 13)
    assert sorted(set().union(*allowed.values())) == list(range(16))
    with pytest.raises(ValueError, match="6 experts are too few for 3 tasks with 2 each; choose more"):
        share_out(TASKS, 6)


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ((0, 8), r"task 'risk' may visit experts \(0, 8\); name each once, ascending, below 8"),
        ((1, 0), r"experts \(1, 0\); name each once, ascending"),
        ((1, 1), r"experts \(1, 1\); name each once"),
        ((), r"experts \(\); name each once"),
        ((3,), "task 'risk' may visit 1 experts and a token visits 2; allow it more"),
    ],
)
def test_experts_that_cannot_be_visited_are_refused(experts, message):
    with pytest.raises(ValueError, match=message):
        Trunk(SMALL, {"risk": experts})


class Bag(nn.Module):
    """A tiny encoder of texts: (n, t) int64, 0 is padding; the summary first."""

    def __init__(self, settings: MoESettings) -> None:
        super().__init__()
        self.table = nn.Embedding(20, settings.width)
        self.summary = nn.Parameter(torch.randn(settings.width))

    def forward(self, ids):
        first = self.summary.expand(len(ids), 1, -1)
        present = torch.cat([torch.ones(len(ids), 1, dtype=torch.bool), ids > 0], 1)
        return torch.cat([first, self.table(ids)], 1), present


class MeanHead(nn.Module):
    """A tiny head that reads every token that is present."""

    def __init__(self, settings: MoESettings) -> None:
        super().__init__()
        self.out = nn.Linear(settings.width, 3)

    def forward(self, x, present):
        here = present.unsqueeze(2)
        return self.out((x * here).sum(1) / here.sum(1))

    def served(self, logits):
        return logits


def three_tasks() -> MoENetwork:
    torch.manual_seed(4)
    allowed = share_out(TASKS, 8, private=1)
    branches = {
        "risk": event_branch(SPECS, allowed["risk"]),
        "support": Branch(Bag, MeanHead, allowed["support"], every_token=True),
        "defect": Branch(Bag, MeanHead, allowed["defect"], whole=True, every_token=True),
    }
    made = MoENetwork(branches, SMALL).eval()
    for router in made.routers():
        router.bias.uniform_(-0.3, 0.3)
    return made


def inputs_of(task: str, n: int = 30) -> torch.Tensor:
    chance = np.random.default_rng(5)
    if task == "risk":
        return torch.from_numpy(chance.normal(size=(n, 3)).round(3) ** 2)
    return torch.from_numpy(np.where(np.arange(6) < chance.integers(0, 7, (n, 1)), chance.integers(1, 20, (n, 6)), 0))


@torch.no_grad()
@pytest.mark.parametrize("task", TASKS)
def test_a_task_cut_out_answers_as_before_with_its_own_experts_alone(task):
    together = three_tasks()
    before = {name: array.clone() for name, array in together.state_dict().items()}
    alone = cut_out(together, task)
    assert (alone.tasks, alone.settings.experts) == ((task,), 6)
    assert len(alone.encoders) == len(alone.heads) == 1
    expected = together.logits(inputs_of(task), task)
    assert expected.std() > 1e-3
    torch.testing.assert_close(alone.logits(inputs_of(task)), expected, atol=1e-6, rtol=0)
    for array in alone.state_dict().values():
        array.zero_()  # nothing of it is shared with the network that it came from
    assert all(torch.equal(array, before[name]) for name, array in together.state_dict().items())


@torch.no_grad()
def test_a_network_of_one_task_is_cut_out_whole():
    torch.manual_seed(1)
    whole = event_network(SPECS, SMALL).eval()
    alone = cut_out(whole)
    assert all(torch.equal(array, alone.state_dict()[name]) for name, array in whole.state_dict().items())
    assert torch.equal(alone.logits(inputs_of("risk")), whole.logits(inputs_of("risk")))


def test_every_task_trains_what_it_uses_and_nothing_else():
    together = three_tasks().train()
    output, routings = together(inputs_of("support", 200), "support")
    (output.square().mean() + sum(r.balance_loss + r.z_loss for r in routings)).backward()
    with_gradient = {name for name, p in together.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    expected = {name for name, _ in together.named_parameters() if name.startswith(("trunk", "encoders.1", "heads.1"))}
    assert with_gradient == expected
    for block in together.trunk.blocks:
        untouched = [i for i in range(8) if i not in together.trunk.experts_of("support")]
        assert block.experts.up.grad[untouched].abs().sum() == 0


def test_a_task_that_is_not_there_is_named():
    together = three_tasks()
    with pytest.raises(ValueError, match="the network has no task 'fraud'; it has risk, support, defect"):
        together.logits(inputs_of("risk"), "fraud")
    with pytest.raises(ValueError, match="the network has no task None; it has risk, support, defect"):
        together.logits(inputs_of("risk"))
    with pytest.raises(ValueError, match="there is no task; give the network at least one"):
        MoENetwork({}, SMALL)


@torch.no_grad()
def test_one_seed_gives_the_numbers_that_it_always_gave():
    # written down before the trunk was shared by several tasks; shipped bundles are made again from their seeds
    torch.manual_seed(1)
    network = event_network(SPECS, SMALL).eval()
    features = torch.tensor([[1.0, 7.0, -2.0], [0.5, float("nan"), 3.0]], dtype=torch.float64)
    torch.testing.assert_close(network.logits(features), torch.tensor([0.016294990, 0.023643222]), atol=1e-6, rtol=0)
