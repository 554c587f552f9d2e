"""The sparse layer: one expert that every token visits, and many of which each token visits k.

Letters: n rows (tokens of all events), d width, e experts, k chosen, f hidden numbers of an expert.
"""

import torch
from torch import Tensor, nn

from models.moe.router import Router, Routing
from models.moe.settings import MoESettings


def swiglu(rows: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Compute (silu(rows G) * (rows U)) D, with up = [G | U]: (n, d) by (d, 2f) by (f, d) gives (n, d).

    Source: Shazeer 2020 (arXiv:2002.05202), equation 6.
    """
    gate, value = (rows @ up).chunk(2, dim=-1)  # (n, f), (n, f)
    return (nn.functional.silu(gate) * value) @ down


class SparseExperts(nn.Module):
    """y = shared(x) + sum over chosen i of weight_i * expert_i(x).

    Rows are sorted by expert, so that each expert does one dense product over the rows it was given; no row is dropped.
    Source: DeepSeekMoE (arXiv:2401.06066), equations 9 to 11.
    """

    def __init__(self, settings: MoESettings) -> None:
        super().__init__()
        d, e, f, g = settings.width, settings.experts, settings.expert_width, settings.shared_width
        self.router = Router(d, e, settings.chosen)
        self.up = nn.Parameter(torch.randn(e, d, 2 * f) * d**-0.5)
        self.down = nn.Parameter(torch.randn(e, f, d) * (f * 2 * settings.layers) ** -0.5)
        self.shared_up = nn.Parameter(torch.randn(d, 2 * g) * d**-0.5)
        self.shared_down = nn.Parameter(torch.randn(g, d) * (g * 2 * settings.layers) ** -0.5)
        self.exporting = False  # set by models/export.py: the number of rows per expert is then a run-time value

    def forward(self, rows: Tensor) -> tuple[Tensor, Routing | None]:  # (n, d)
        """Give (n, d) answers, and while training what the router did."""
        weights, ids, routing = self.router(rows)  # (n, k), (n, k)
        n, k = ids.shape
        order = ids.flatten().sort()[1]  # (n * k,) visits, those of expert 0 first
        parts = self._split(rows.index_select(0, order // k), ids.flatten())
        # unbind, not up[i]: the gradient of an index is a zero array as large as all experts together
        each = zip(parts, self.up.unbind(0), self.down.unbind(0), strict=True)
        visited = torch.cat([swiglu(part, up, down) for part, up, down in each])  # (n * k, d), sorted by expert
        back = torch.zeros_like(order).scatter(0, order, torch.arange(n * k, device=order.device))
        routed = visited.index_select(0, back).view(
            n, k, rows.shape[1]
        )  # the k answers of each row, in its order of choice
        routed = (routed * weights.unsqueeze(-1)).sum(1)  # (n, d)
        return routed + swiglu(rows, self.shared_up, self.shared_down), routing

    def _split(self, visits: Tensor, ids: Tensor) -> list[Tensor]:
        e = self.router.experts
        counts = nn.functional.one_hot(ids, e).sum(0)  # (e,)
        if self.exporting:  # the shapes given here are placeholders: the export deletes them again
            return list(
                torch.onnx.ops.symbolic_multi_out(
                    "::Split",
                    (visits, counts),
                    attrs={"axis": 0},
                    dtypes=[visits.dtype] * e,
                    shapes=[visits.shape] * e,
                    version=18,
                )
            )
        return list(visits.split(counts.tolist()))
