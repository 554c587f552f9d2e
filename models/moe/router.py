"""Choose which experts a token visits, and how much each counts. Always fp32, on every device."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Routing:
    """What the router did with one batch, for the losses and the report.

    Attributes:
        visits: (e,) tokens sent to each expert, int64.
        share: (e,) visits over their sum.
        mean_score: (e,) what each expert has of the sum of a token's scores, in the mean over tokens.
        z_loss: mean squared log-sum-exp of the logits.
    """

    visits: Tensor
    share: Tensor
    mean_score: Tensor
    z_loss: Tensor

    @property
    def balance_loss(self) -> Tensor:
        """The loss of this batch alone, see `balance_loss`."""
        return balance_loss([self])


def balance_loss(routings: Sequence[Routing]) -> Tensor:
    """Compute e * sum_i(share_i * mean_score_i): 1 if the load is even, more if not.

    Given one batch of each task, it is the load of all together that ought to be even, each task counting alike:
    one that is even within every task costs more than it brings (models/LOG.md).
    """
    share = sum(routing.share for routing in routings) / len(routings)
    mean_score = sum(routing.mean_score for routing in routings) / len(routings)
    return len(share) * (share * mean_score).sum()


class Router(nn.Module):
    """Send each row to its k best experts of those, among e, that it may visit.

    Letters: n rows, d width, e experts, k chosen. Equations, with u a row and b the selection-only bias:
    s = sigmoid(u W); chosen = the k largest allowed of s + b, the lowest index first among equals;
    weight_i = s_i / sum over chosen s_j. The bias decides who is chosen and never enters a weight.

    Sources: DeepSeek-V3 (arXiv:2412.19437), equations 12 to 16, for scores, weights and bias; Wang et al. 2024
    (arXiv:2408.15664), algorithm 1, for the sign update; Fedus et al. 2021 (arXiv:2101.03961), equation 4, for the
    balance loss; Zoph et al. 2022 (arXiv:2202.08906), equation 5, for the z loss.
    """

    bias: Tensor

    def __init__(self, width: int, experts: int, chosen: int) -> None:
        super().__init__()
        self.experts, self.chosen = experts, chosen
        self.weight = nn.Parameter(torch.randn(width, experts) * width**-0.5)
        self.register_buffer("bias", torch.zeros(experts))

    def forward(
        self, rows: Tensor, allowed: Tensor | None = None, tokens: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Routing | None]:  # (n, d)
        """Give weights (n, k), experts (n, k) int64, and while training what the losses need.

        Args:
            rows: what is routed.
            allowed: (e,) bool, the experts that may be visited; all, if not given.
            tokens: (n,) int64, for how many tokens a row decides; one, if not given.
        """
        with torch.autocast(rows.device.type, enabled=False):
            logits = rows.float() @ self.weight  # (n, e)
            if allowed is not None:
                logits = logits.masked_fill(~allowed, -torch.inf)
            scores = torch.sigmoid(logits)  # 0 where not allowed
            ranked = scores.detach() + self.bias
            ids = self._best(ranked if allowed is None else ranked.masked_fill(~allowed, -torch.inf))  # (n, k)
            picked = scores.gather(1, ids)
            weights = picked / picked.sum(dim=1, keepdim=True)  # rows sum to 1
            return weights, ids, self._routing(logits, scores, ids, tokens) if self.training else None

    def _best(self, ranked: Tensor) -> Tensor:
        # topk leaves the order among equals open, and runtimes differ; argmax takes the first everywhere
        ids = []
        for _ in range(self.chosen):
            best = ranked.argmax(dim=1, keepdim=True)  # (n, 1)
            ids.append(best)
            ranked = ranked.scatter(1, best, -torch.inf)
        return torch.cat(ids, dim=1)

    def _routing(self, logits: Tensor, scores: Tensor, ids: Tensor, tokens: Tensor | None) -> Routing:
        score_shares = scores / scores.sum(1, keepdim=True)  # (n, e)
        squares = logits.logsumexp(1).square()  # (n,)
        if tokens is None:
            visits = nn.functional.one_hot(ids.flatten(), self.experts).sum(0)  # (e,)
            return Routing(visits, visits / ids.numel(), score_shares.mean(0), squares.mean())
        visits = (nn.functional.one_hot(ids, self.experts).sum(1) * tokens.unsqueeze(1)).sum(0)  # (e,)
        part = tokens / tokens.sum()  # (n,) sums to 1
        return Routing(visits, visits / visits.sum(), part @ score_shares, part @ squares)

    @torch.no_grad()
    def rebalance(self, visits: Tensor, step: float) -> None:
        """Make overloaded experts a little less likely to be chosen, idle ones more; keep the mean at 0.

        Args:
            visits: (e,) rows sent to each expert since the last optimizer step, training batches only.
            step: how far to move.
        """
        mean = visits.double().mean()
        self.bias += step * torch.sign(mean - visits).to(self.bias.dtype)
        self.bias -= self.bias.mean()

    @torch.no_grad()
    def keep(self, experts: Tensor) -> None:
        """Forget all experts but these (ids, ascending), for good."""
        self.experts = len(experts)
        self.weight = nn.Parameter(self.weight.index_select(1, experts))
        self.bias = self.bias.index_select(0, experts)
