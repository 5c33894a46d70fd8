"""A sum whose shares are learned as they are, without a law that keeps them positive or lets them add up to one."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block
from blocks.wiring.merges import one_width


@block(
    "scaled_sum",
    kind="merge",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:1904.02358",
    covers=("awsrn", "adaptive_weighted_sum"),
)
class ScaledSum(nn.Module):
    """y = sum_i w_i x_i with `weight` w (n,), learned; all w_i are `start` at first.

    n x (B, C, H, W), or tokens -> the same shape. Raises ValueError for several widths.
    """

    def __init__(self, dims: tuple[int, ...], *, start: Annotated[float, Meta(gt=0)] = 1.0):
        super().__init__()
        self.out_dim, self.start = one_width(dims), start
        self.weight = nn.Parameter(torch.empty(len(dims)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.start)

    def forward(self, *tensors: Tensor) -> Tensor:
        weights = self.weight.to(tensors[0].dtype)
        y = tensors[0] * weights[0]
        for x, weight in zip(tensors[1:], weights[1:], strict=True):
            y = torch.addcmul(y, x, weight)
        return y
