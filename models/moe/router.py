"""Choose which experts a token visits, and how much each counts. Always fp32, on every device."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Routing:
    """What the router did with one batch, for the losses and the report.

    Attributes:
        visits: (e,) rows sent to each expert, int64.
        balance_loss: e * sum_i(share of visits to i * mean score share of i): 1 if the load is even, more if not.
        z_loss: mean squared log-sum-exp of the logits.
    """

    visits: Tensor
    balance_loss: Tensor
    z_loss: Tensor


class Router(nn.Module):
    """Send each row to its k best experts of e.

    Letters: n rows, d width, e experts, k chosen. Equations, with u a row and b the selection-only bias:
    s = sigmoid(u W); chosen = the k largest of s + b, the lowest index first among equals;
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

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor, Routing | None]:  # (n, d)
        """Give weights (n, k), experts (n, k) int64, and while training what the losses need."""
        with torch.autocast(rows.device.type, enabled=False):
            logits = rows.float() @ self.weight  # (n, e)
            scores = torch.sigmoid(logits)
            ids = self._best(scores.detach() + self.bias)  # (n, k)
            picked = scores.gather(1, ids)
            weights = picked / picked.sum(dim=1, keepdim=True)  # rows sum to 1
            return weights, ids, self._routing(logits, scores, ids) if self.training else None

    def _best(self, ranked: Tensor) -> Tensor:
        # topk leaves the order among equals open, and runtimes differ; argmax takes the first everywhere
        ids = []
        for _ in range(self.chosen):
            best = ranked.argmax(dim=1, keepdim=True)  # (n, 1)
            ids.append(best)
            ranked = ranked.scatter(1, best, -torch.inf)
        return torch.cat(ids, dim=1)

    def _routing(self, logits: Tensor, scores: Tensor, ids: Tensor) -> Routing:
        visits = nn.functional.one_hot(ids.flatten(), self.experts).sum(0)  # (e,)
        share = visits / ids.numel()
        mean_score = (scores / scores.sum(1, keepdim=True)).mean(0)  # (e,)
        return Routing(visits, self.experts * (share * mean_score).sum(), logits.logsumexp(1).square().mean())

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
