"""A norm that gives way: a layer norm at the start of training, a batch norm with a skip at its end, which folds into its neighbours.

Paper: arXiv:2405.11582 (SLAB, equations 3 and 4). Upstream: xinghaochen/SLAB. Differs from upstream: how far training is, `anneal` says,
and no counter in the state.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.primitives.norms import BatchNorm, Eps, LayerNorm
from blocks.registry import block


@block(
    "progressive_norm",
    kind="norm",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2405.11582",
    covers=("prepbn", "repbn", "linear_norm", "slab"),
)
class ProgressiveNorm(nn.Module):
    """y = share LN(x) + (1 - share) (BN(x) + alpha x); share falls in a straight line from 1 to 0 over `until` of training.

    (B, C, H, W), (B, L, C) or (B, C) -> the same shape. `anneal` moves the share; where nobody anneals it is 0, and evaluation has no
    layer norm whatever it is. `eps` is the layer norm's. `fuse()` leaves a batch norm of scale weight + alpha sqrt(var + eps).
    """

    def __init__(self, dim: int, *, eps: Eps = 1e-6, until: Annotated[float, Meta(gt=0, le=1)] = 1.0):
        super().__init__()
        self.until, self.share = until, 0.0
        self.before = LayerNorm(dim, eps=eps)
        self.after = BatchNorm(dim)
        self.alpha = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.alpha)

    def anneal(self, share: float) -> None:
        self.share = max(0.0, 1 - share / self.until)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.share == 1:
            return self.before(x)
        y = torch.addcmul(self.after(x), self.alpha.to(x.dtype), x)
        return torch.lerp(y, self.before(x), self.share) if self.training and self.share else y

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        norm = self.after
        norm.weight.add_(self.alpha * (norm.running_var + norm.eps).sqrt().to(self.alpha))
        norm.bias.add_(self.alpha * norm.running_mean.to(self.alpha))
        return norm
