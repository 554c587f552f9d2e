"""Batch normalisation over the batches of all processes: with their shares, what one process has with the whole.

torch has this for GPUs alone (SyncBatchNorm); this is for the CPU, too.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Summed(torch.autograd.Function):
    """The sum over all processes. What each process makes of it counts: gradients are summed, too."""

    @staticmethod
    def forward(ctx: Any, array: Tensor) -> Tensor:
        total = array.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SharedNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with mean and variance, those it keeps included, of the processes' batches together.

    Source: Ioffe, Szegedy 2015 (arXiv:1502.03167), algorithm 1; Peng et al. 2018 (arXiv:1711.07240), section 3.3.
    """

    def forward(self, input: Tensor) -> Tensor:  # (n, c, a, a)
        """Normalise each channel."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        here = torch.full((1,), x.numel() / x.shape[1], device=x.device)
        sums = _Summed.apply(torch.cat([x.sum((0, 2, 3)), here]))  # (c + 1,)
        count = sums[-1].detach()
        mean = sums[:-1] / count  # (c,)
        away = x - mean.view(1, -1, 1, 1)
        variance = _Summed.apply(away.square().sum((0, 2, 3))) / count  # (c,)
        self._keep(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (away * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(input.dtype)

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def share_norms(module: nn.Module) -> None:
    """Replace every `nn.BatchNorm2d` inside by a `SharedNorm` with its numbers."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            shared = SharedNorm(child.num_features, child.eps, child.momentum)
            shared.load_state_dict(child.state_dict())
            setattr(module, name, shared.to(child.weight.device))
        else:
            share_norms(child)
