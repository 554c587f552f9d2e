"""The sparse layer: one expert that every token visits, and many of which each token visits k.

Letters: n rows (tokens of all events), d width, e experts, k chosen, f hidden numbers of an expert.
"""

from collections.abc import Sequence
from importlib.util import find_spec

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
    Rows that are padding sort behind those of the last expert, and none is asked. Without gradients on a CUDA device
    the kernels of `kernels.moe` do the same, and refuse rows that are not finite (ValueError).
    Source: DeepSeekMoE (arXiv:2401.06066), equations 9 to 11; one choice per example: Mobile V-MoEs, Daxberger et al.
    2023 (arXiv:2309.04354), section 3.
    """

    def __init__(self, settings: MoESettings) -> None:
        super().__init__()
        d, e, f, g = settings.width, settings.experts, settings.expert_width, settings.shared_width
        self.router = Router(d, e, settings.chosen)
        self.up = nn.Parameter(torch.randn(e, d, 2 * f) * d**-0.5)
        self.down = nn.Parameter(torch.randn(e, f, d) * (f * 2 * settings.layers) ** -0.5)
        self.shared_up = nn.Parameter(torch.randn(d, 2 * g) * d**-0.5)
        self.shared_down = nn.Parameter(torch.randn(g, d) * (g * 2 * settings.layers) ** -0.5)
        self.exporting = False  # set by models/onnx_export.py: the number of rows per expert is then a run-time value

    def forward(
        self, rows: Tensor, allowed: Tensor | None = None, present: Tensor | None = None, per_choice: int = 1
    ) -> tuple[Tensor, Routing | None]:  # (n, d)
        """Give (n, d) answers, and while training what the router did.

        Args:
            rows: tokens.
            allowed: (e,) bool, the experts that may be visited; all, if not given.
            present: (n,) bool, false for padding; all are, if not given.
            per_choice: how many rows, one after another, go to the same experts, chosen by their mean.
        """
        if self._kernels_can(rows.device, rows.dtype):
            return self._by_kernels(rows, allowed, present, per_choice), None
        deciding, tokens = _deciding(rows, present, per_choice)
        weights, ids, routing = self.router(deciding, allowed, tokens)  # (n, k), (n, k)
        if per_choice > 1:
            weights, ids = (of_choice.repeat_interleave(per_choice, dim=0) for of_choice in (weights, ids))
        if present is not None:
            ids = torch.where(present.unsqueeze(1), ids, self.router.experts)
        n, k = ids.shape
        order = ids.flatten().sort()[1]  # (n * k,) visits, those of expert 0 first
        parts = self._split(rows.index_select(0, order // k), ids.flatten(), 0 if present is None else 1)
        # unbind, not up[i]: the gradient of an index is a zero array as large as all experts together
        each = zip(self.up.unbind(0), self.down.unbind(0), strict=True)
        answers = [swiglu(part, up, down) for part, (up, down) in zip(parts, each, strict=False)]
        answers += [torch.zeros_like(part) for part in parts[len(answers) :]]
        visited = torch.cat(answers)  # (n * k, d), sorted by expert
        back = torch.zeros_like(order).scatter(0, order, torch.arange(n * k, device=order.device))
        routed = visited.index_select(0, back).view(
            n, k, rows.shape[1]
        )  # the k answers of each row, in its order of choice
        routed = (routed * weights.unsqueeze(-1)).sum(1)  # (n, d)
        return routed + swiglu(rows, self.shared_up, self.shared_down), routing

    def _kernels_can(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Tell if rows there, of this type, are for the kernels: to serve, in the type of the weights, on a GPU."""
        computes_only = not (self.training or self.exporting or torch.is_grad_enabled())
        in_one_type = dtype == self.up.dtype != torch.float64 and not torch.is_autocast_enabled("cuda")
        return device.type == "cuda" and computes_only and in_one_type and find_spec("triton") is not None

    def _by_kernels(self, rows: Tensor, allowed: Tensor | None, present: Tensor | None, per_choice: int) -> Tensor:
        from kernels.moe import sparse_experts  # Triton: only where there is a GPU

        router, experts = (self.router.weight, self.router.bias), (self.up, self.down, self.shared_up, self.shared_down)
        choice = (self.router.chosen, allowed)
        return sparse_experts(rows, *router, *experts, *choice, present=present, per_choice=per_choice)

    def _split(self, visits: Tensor, ids: Tensor, more: int) -> list[Tensor]:
        e = self.router.experts + more  # one more for padding
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

    @torch.no_grad()
    def keep(self, experts: Sequence[int]) -> None:
        """Forget all experts but these, for good."""
        chosen = torch.tensor(experts, device=self.up.device)
        self.up, self.down = (nn.Parameter(array.index_select(0, chosen)) for array in (self.up, self.down))
        self.router.keep(chosen)


def _deciding(rows: Tensor, present: Tensor | None, per_choice: int) -> tuple[Tensor, Tensor | None]:
    """Give what the router sees, and for how many tokens each row of that decides."""
    if per_choice == 1:
        return rows, None if present is None else present.long()
    together = rows.view(-1, per_choice, rows.shape[1])  # (examples, per_choice, d)
    if present is None:
        tokens = torch.full((together.shape[0],), per_choice, device=rows.device)
        return together.mean(1), tokens
    here = present.view(-1, per_choice, 1)
    tokens = here.sum((1, 2))  # (examples,)
    return torch.where(here, together, 0).sum(1) / tokens.unsqueeze(1), tokens
