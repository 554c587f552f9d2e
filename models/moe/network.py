"""The network: for each task an encoder before and a head after one trunk that all share.

    raw inputs of a task --encoder--> tokens (n, t, d) --trunk--> summary (n, d), or every token --head--> its logits

Letters: n examples, t tokens of an example, d width, m committee members.
Reading order: MoENetwork.forward, then trunk.py. The parts of risk: encoder.py, and Committee below.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.features import FeatureSpec
from models.moe.encoder import Encoder
from models.moe.router import Routing
from models.moe.settings import MoESettings
from models.moe.trunk import Trunk


@dataclass(frozen=True)
class Branch:
    """What one task has of its own.

    Attributes:
        encoder: makes the encoder from the settings. `encoder(inputs)` gives tokens (n, t, d), the summary first, and
            which are present (n, t), or None if all are. What `inputs` is, one tensor or several, is between the
            encoder and who calls the network.
        head: makes the head from the settings. `head(summary (n, d))`, or `head(tokens (n, t, d), present)` with
            `every_token`, gives what the loss of the task takes; `head.served(that)` gives what is served.
        experts: that the task may visit, ascending; None is all. See `models.moe.trunk.share_out`.
        whole: one choice of experts per example instead of one per token.
        every_token: the head reads every token, not the summary alone.
    """

    encoder: Callable[[MoESettings], nn.Module]
    head: Callable[[MoESettings], nn.Module]
    experts: Sequence[int] | None = None
    whole: bool = False
    every_token: bool = False


class MoENetwork(nn.Module):
    """Raw inputs of a task to its logits.

    Args:
        branches: task -> its parts.
        settings: sizes of the trunk.

    Raises:
        ValueError: no task, or experts that cannot be visited.
    """

    def __init__(self, branches: Mapping[str, Branch], settings: MoESettings) -> None:
        super().__init__()
        if not branches:
            raise ValueError("there is no task; give the network at least one")
        self.settings, self.branches = settings, dict(branches)
        self.encoders = nn.ModuleList(branch.encoder(settings) for branch in branches.values())
        self.trunk = Trunk(settings, {task: branch.experts for task, branch in branches.items()})
        self.heads = nn.ModuleList(branch.head(settings) for branch in branches.values())

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the order of encoders and heads."""
        return tuple(self.branches)

    def forward(self, inputs: Any, task: str | None = None) -> tuple[Any, list[Routing]]:
        """Give what the head of `task` makes of `inputs`, and while training each block's routing.

        The task may be left out where there is one only.
        """
        place = self.place(task)
        branch = self.branches[self.tasks[place]]
        x, present = self.encoders[place](inputs)  # (n, t, d), (n, t) or None
        x, routings = self.trunk(x, self.tasks[place], present, branch.whole, branch.every_token)
        head = self.heads[place]
        return (head(x, present) if branch.every_token else head(x)), routings

    def logits(self, inputs: Any, task: str | None = None) -> Any:
        """Give what is served of `inputs`: of events (n, F) float64 their logits (n,) float32."""
        return self.heads[self.place(task)].served(self(inputs, task)[0])

    def place(self, task: str | None = None) -> int:
        """Return which of the encoders and heads are the task's.

        Raises:
            ValueError: no such task, or none named where there are several.
        """
        if task is None and len(self.tasks) == 1:
            return 0
        if task not in self.tasks:
            raise ValueError(f"the network has no task {task!r}; it has {', '.join(self.tasks)}")
        return self.tasks.index(task)

    def routers(self) -> list:
        """List the routers, first block first."""
        return self.trunk.routers()


def cut_out(network: MoENetwork, task: str | None = None) -> MoENetwork:
    """Copy what one task needs: its encoder, head and experts. Its answers stay the same, to the last rounding.

    Source: Kudugunta et al. 2021 (arXiv:2110.03742), section 3.
    """
    place = network.place(task)
    task = network.tasks[place]
    alone = copy.copy(network)  # so that the other tasks' parts are not copied only to be dropped
    alone._modules = {
        "encoders": nn.ModuleList([copy.deepcopy(network.encoders[place])]),
        "trunk": copy.deepcopy(network.trunk),
        "heads": nn.ModuleList([copy.deepcopy(network.heads[place])]),
    }
    alone.trunk.keep(task)
    alone.branches = {task: replace(network.branches[task], experts=None)}
    alone.settings = replace(network.settings, experts=int(alone.trunk.allowed.sum()))
    alone.trunk.settings = alone.settings
    return alone


def event_branch(specs: Sequence[FeatureSpec], experts: Sequence[int] | None = None) -> Branch:
    """Tell the parts of a task on event features: (n, F) float64, NaN is null, to logits of the positive class."""
    return Branch(partial(Encoder, tuple(specs)), Committee, experts)


def event_network(specs: Sequence[FeatureSpec], settings: MoESettings, task: str = "risk") -> MoENetwork:
    """Make the network of one task on event features.

    Raises:
        ValueError: from the plan, if the columns cannot be made into tokens.
    """
    return MoENetwork({task: event_branch(specs)}, settings)


class Committee(nn.Module):
    """m heads that share their matrices and differ in cheap vectors: out_i = b_i . gelu(((x * r_i) W) * s_i + c_i).

    Trained each on its own, read as a mean. Source: TabM, Gorishniy et al. 2024 (arXiv:2410.24210), section 3.
    """

    def __init__(self, settings: MoESettings) -> None:
        super().__init__()
        m, d, g = settings.members, settings.width, settings.head_width
        self.r = nn.Parameter(torch.randint(0, 2, (m, d)) * 2.0 - 1)  # random signs: members start out different
        self.w = nn.Parameter(torch.randn(d, g) * d**-0.5)
        self.s = nn.Parameter(torch.ones(m, g))
        self.c = nn.Parameter(torch.zeros(m, g))
        self.b = nn.Parameter(torch.randn(m, g) * g**-0.5 * 0.1)
        self.base = nn.Parameter(torch.zeros(m))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor) -> Tensor:  # (n, d)
        """Give (n, m) logits, one per member."""
        hidden = (x.unsqueeze(1) * self.r) @ self.w * self.s + self.c  # (n, m, g)
        return (self.dropout(nn.functional.gelu(hidden)) * self.b).sum(-1) + self.base  # (n, m)

    def served(self, members: Tensor) -> Tensor:
        """Give the mean logit (n,) of (n, m)."""
        return members.float().mean(1)
