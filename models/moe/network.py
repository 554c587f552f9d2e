"""The network: tokens, blocks of attention and sparse experts, a small committee of heads, one logit per event.

Letters: n events, F columns, t tokens of an event, d width, h heads, m committee members, e experts.
Reading order: MoENetwork.forward, then Block, Attention, Committee; encoder.py and experts.py for the rest.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.features import FeatureSpec
from models.moe.encoder import Encoder
from models.moe.experts import SparseExperts
from models.moe.router import Routing
from models.moe.settings import MoESettings
from models.moe.tokens import TokenPlan, plan_tokens


class MoENetwork(nn.Module):
    """A feature matrix to logits of the positive class.

    Raises:
        ValueError: from the plan, if the columns cannot be made into tokens.
    """

    def __init__(self, specs: Sequence[FeatureSpec], settings: MoESettings) -> None:
        super().__init__()
        self.specs, self.settings = tuple(specs), settings
        self.plan: TokenPlan = plan_tokens(specs, settings)
        self.encoder = Encoder(specs, self.plan, settings)
        self.dropout = nn.Dropout(settings.dropout)
        # the answer is read from the summary token alone, so the last block computes nothing else
        self.blocks = nn.ModuleList(
            Block(settings, summary_only=layer == settings.layers - 1) for layer in range(settings.layers)
        )
        self.norm = RMSNorm(settings.width)
        self.committee = Committee(settings)

    def forward(self, features: Tensor) -> tuple[Tensor, list[Routing]]:  # (n, F) float64, NaN is null
        """Give (n, m) logits, one per committee member, and while training each block's routing."""
        x = self.dropout(self.encoder(features))  # (n, t, d)
        routings = []
        for block in self.blocks:
            x, routing = block(x)  # (n, t, d), after the last block (n, 1, d)
            if routing is not None:
                routings.append(routing)
        return self.committee(self.norm(x[:, 0])), routings  # (n, m)

    def logits(self, features: Tensor) -> Tensor:
        """Give the committee's mean logit: (n, F) float64 to (n,) float32."""
        return self(features)[0].float().mean(1)

    def routers(self) -> list:
        """List the routers, first block first."""
        return [block.experts.router for block in self.blocks]


class Block(nn.Module):
    """x + attention(norm(x)), then x + experts(norm(x)). Pre-norm, as in LLaMA (arXiv:2302.13971), section 2.2."""

    def __init__(self, settings: MoESettings, summary_only: bool) -> None:
        super().__init__()
        self.summary_only = summary_only
        self.attention_norm = RMSNorm(settings.width)
        self.attention = Attention(settings)
        self.experts_norm = RMSNorm(settings.width)
        self.experts = SparseExperts(settings)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Routing | None]:  # (n, t, d)
        """Give (n, t, d), or (n, 1, d) if only the summary goes on."""
        seen = self.attention_norm(x)
        asking = slice(0, 1) if self.summary_only else slice(None)
        x = x[:, asking] + self.dropout(self.attention(seen[:, asking], seen))  # (n, t or 1, d)
        rows = self.experts_norm(x)
        y, routing = self.experts(rows.reshape(-1, rows.shape[-1]))  # every token is routed by itself
        return x + self.dropout(y.view(x.shape)), routing


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d / h)) v over the tokens of one event, no mask. Source: arXiv:1706.03762, equation 1."""

    def __init__(self, settings: MoESettings) -> None:
        super().__init__()
        d = settings.width
        self.heads, self.head_width = settings.heads, d // settings.heads
        self.query = nn.Linear(d, d, bias=False)
        self.key_value = nn.Linear(d, 2 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        nn.init.normal_(self.out.weight, std=(d * 2 * settings.layers) ** -0.5)

    def forward(self, asking: Tensor, seen: Tensor) -> Tensor:  # (n, a, d), (n, t, d)
        """Let `a` tokens look at all `t` tokens of their event; returns (n, a, d)."""
        key, value = self.key_value(seen).chunk(2, dim=-1)
        q, k, v = (self._by_head(x) for x in (self.query(asking), key, value))  # (n, h, a or t, d / h)
        share = (q @ k.transpose(2, 3) * self.head_width**-0.5).softmax(dim=-1)  # (n, h, a, t)
        return self.out((share @ v).transpose(1, 2).reshape(asking.shape))

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
        """Give (n, m) logits."""
        hidden = (x.unsqueeze(1) * self.r) @ self.w * self.s + self.c  # (n, m, g)
        return (self.dropout(nn.functional.gelu(hidden)) * self.b).sum(-1) + self.base  # (n, m)
