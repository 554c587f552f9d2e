"""The trunk that all tasks share: blocks of attention and sparse experts over the tokens of an example.

Letters: n examples, t tokens of an example, d width, h heads, e experts.
Reading order: Trunk.forward, then Block, Attention; experts.py and router.py for the rest.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.moe.experts import SparseExperts
from models.moe.router import Routing
from models.moe.settings import MoESettings


class Trunk(nn.Module):
    """Tokens in, tokens out; each task visits the experts that it may.

    Every task has its own encoder before the trunk and its own head after it, so a task needs no embedding here: the
    encoder's first token, the summary, is the task's own. Experts are common to all tasks or allowed to some of them
    (`share_out`); the rest of a block, its shared expert included, is common. What one task may visit can be cut out
    and served alone, see `models.moe.network.cut_out`.

    Args:
        settings: sizes.
        allowed: task -> the experts that it may visit in every block, ascending; None is all of them.

    Raises:
        ValueError: experts that do not exist, are named twice or out of order, or fewer than a token visits.

    Sources: common and private experts: PLE, Tang et al. 2020 (RecSys, doi:10.1145/3383313.3412236), section 4;
    cutting out a task: Kudugunta et al. 2021 (arXiv:2110.03742), section 3.
    """

    allowed: Tensor

    def __init__(self, settings: MoESettings, allowed: Mapping[str, Sequence[int] | None]) -> None:
        super().__init__()
        self.settings, self.tasks = settings, tuple(allowed)
        mask = torch.zeros(len(self.tasks), settings.experts, dtype=torch.bool)
        for row, (task, experts) in enumerate(allowed.items()):
            mask[row, _checked(task, experts, settings)] = True
        self.register_buffer("allowed", mask, persistent=False)  # (tasks, e); what is declared needs no saving
        self._masked = tuple(not row.all() for row in mask)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.norm = RMSNorm(settings.width)

    def forward(
        self, x: Tensor, task: str, present: Tensor | None = None, whole: bool = False, every_token: bool = False
    ) -> tuple[Tensor, list[Routing]]:  # (n, t, d)
        """Give the summary (n, d), or (n, t, d) if every token is asked for; while training each block's routing.

        Args:
            x: tokens, the summary first.
            task: whose experts may be visited.
            present: (n, t), false for padding: nobody looks at it, it visits no expert and is not counted, and what
                comes out in its place means nothing. The summary is always present.
            whole: one choice of experts per example, from the mean of its tokens, instead of one per token.
            every_token: without it, the last block computes nothing but the summary.
        """
        row = self.tasks.index(task)
        allowed = self.allowed[row] if self._masked[row] else None
        x = self.dropout(x)
        routings = []
        for block in self.blocks:
            summary_only = block is self.blocks[-1] and not every_token
            x, routing = block(x, allowed, present, whole, summary_only)  # (n, t, d), or (n, 1, d) after the last
            if routing is not None:
                routings.append(routing)
        return self.norm(x if every_token else x[:, 0]), routings

    def routers(self) -> list:
        """List the routers, first block first."""
        return [block.experts.router for block in self.blocks]

    def experts_of(self, task: str) -> list[int]:
        """List the experts that a task may visit, ascending."""
        return self.allowed[self.tasks.index(task)].nonzero().flatten().tolist()

    @torch.no_grad()
    def keep(self, task: str) -> None:
        """Forget every other task and its experts, for good. Answers of `task` stay the same."""
        experts = self.experts_of(task)
        for block in self.blocks:
            block.experts.keep(experts)
        self.tasks, self._masked = (task,), (False,)
        self.allowed = torch.ones(1, len(experts), dtype=torch.bool, device=self.allowed.device)


class Block(nn.Module):
    """x + attention(norm(x)), then x + experts(norm(x)). Pre-norm, as in LLaMA (arXiv:2302.13971), section 2.2."""

    def __init__(self, settings: MoESettings) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(settings.width)
        self.attention = Attention(settings)
        self.experts_norm = RMSNorm(settings.width)
        self.experts = SparseExperts(settings)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(
        self, x: Tensor, allowed: Tensor | None, present: Tensor | None, whole: bool, summary_only: bool
    ) -> tuple[Tensor, Routing | None]:  # (n, t, d), (e,), (n, t)
        """Give (n, a, d): a is t, or 1 if only the summary goes on."""
        seen = self.attention_norm(x)
        asking = slice(0, 1) if summary_only else slice(None)
        x = x[:, asking] + self.dropout(self.attention(seen[:, asking], seen, present))  # (n, a, d)
        rows = self.experts_norm(x)
        a, d = rows.shape[1:]
        here = None if present is None or summary_only else present.reshape(-1)  # (n * a,)
        y, routing = self.experts(rows.reshape(-1, d), allowed, here, per_choice=a if whole else 1)
        return x + self.dropout(y.view(x.shape)), routing


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d / h)) v over the present tokens of one example. Source: arXiv:1706.03762, equation 1."""

    def __init__(self, settings: MoESettings) -> None:
        super().__init__()
        d = settings.width
        self.heads, self.head_width = settings.heads, d // settings.heads
        self.query = nn.Linear(d, d, bias=False)
        self.key_value = nn.Linear(d, 2 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        nn.init.normal_(self.out.weight, std=(d * 2 * settings.layers) ** -0.5)

    def forward(self, asking: Tensor, seen: Tensor, present: Tensor | None = None) -> Tensor:
        """Let (n, a, d) tokens look at (n, t, d) tokens of their example, where (n, t) present; returns (n, a, d)."""
        key, value = self.key_value(seen).chunk(2, dim=-1)
        q, k, v = (self._by_head(x) for x in (self.query(asking), key, value))  # (n, h, a or t, d / h)
        match = q @ k.transpose(2, 3) * self.head_width**-0.5  # (n, h, a, t)
        if present is not None:
            match = match.masked_fill(~present[:, None, None, :], -torch.inf)
        return self.out((match.softmax(dim=-1) @ v).transpose(1, 2).reshape(asking.shape))

    def _by_head(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, self.head_width).transpose(1, 2)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-6) * gain, in fp32. Source: Zhang, Sennrich 2019 (arXiv:1910.07467), equation 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:  # (..., d)
        """Scale each row to a mean square of 1, times the gain."""
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.gain


def share_out(tasks: Sequence[str], experts: int, private: int = 2) -> dict[str, tuple[int, ...] | None]:
    """Tell which experts each task may visit: the common ones and `private` of its own. One task alone gets all.

    >>> share_out(["risk", "support"], experts=8)
    {'risk': (0, 1, 2, 3, 4, 5), 'support': (0, 1, 2, 3, 6, 7)}

    Raises:
        ValueError: no expert would be left for all.
    """
    if len(tasks) == 1:
        return {tasks[0]: None}
    common = experts - private * len(tasks)
    if common < 1:
        raise ValueError(f"{experts} experts are too few for {len(tasks)} tasks with {private} each; choose more")
    own = {task: range(common + i * private, common + (i + 1) * private) for i, task in enumerate(tasks)}
    return {task: (*range(common), *own[task]) for task in tasks}


def _checked(task: str, experts: Sequence[int] | None, settings: MoESettings) -> list[int]:
    if experts is None:
        return list(range(settings.experts))
    if list(experts) != sorted(set(experts)) or not experts or experts[0] < 0 or experts[-1] >= settings.experts:
        raise ValueError(
            f"task {task!r} may visit experts {tuple(experts)}; name each once, ascending, below {settings.experts}"
        )
    if len(experts) < settings.chosen:
        raise ValueError(
            f"task {task!r} may visit {len(experts)} experts and a token visits {settings.chosen}; allow it more"
        )
    return list(experts)
