"""Norms of single pictures: each channel standardised over its own positions, alone or beside a batch norm (IBN-Net).

Papers: arXiv:1607.08022, arXiv:1807.09441. Upstream: XingangPan/IBN-Net (MIT).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import per_channel
from blocks.primitives.norms import Affine, BatchNorm, Eps
from blocks.registry import block


@block("instance_norm", kind="norm", abilities=("noncausal", "any_resolution"), paper="arXiv:1607.08022")
class InstanceNorm(Affine):
    """y = weight * (x - mean) / sqrt(var + eps) + bias, with the moments of each channel of each sample over its positions.

    (B, C, H, W) or (B, L, C) -> the same shape, the same in training and evaluation.
    """

    def __init__(self, dim: int, *, eps: Eps = 1e-5, bias: bool = True):
        super().__init__(dim, eps, bias)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor and not x.numel():  # of no positions there are no moments
            return x * per_channel(self.weight, x)
        positions = (2, 3) if x.ndim == 4 else (1,)
        var, mean = torch.var_mean(x, positions, correction=0, keepdim=True)
        y = (x - mean) * (var + self.eps).rsqrt() * per_channel(self.weight, x)
        return y if self.bias is None else y + per_channel(self.bias, x)


@block(
    "instance_batch_norm",
    kind="norm",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:1807.09441",
    covers=("ibn", "ibn_a", "ibnnet"),
)
class InstanceBatchNorm(nn.Module):
    """y = the first int(share * C) channels by an instance norm, the rest by a batch norm: what pictures look like, and what they show.

    (B, C, H, W) or (B, L, C) -> the same shape. Raises ValueError when either norm would have no channels.
    """

    def __init__(self, dim: int, *, share: Annotated[float, Meta(gt=0, lt=1)] = 0.5, eps: Eps = 1e-5):
        super().__init__()
        self.count = int(dim * share)
        if not 0 < self.count < dim:
            raise ValueError(f"a share of {share:g} of {dim} channels leaves one of the two norms none")
        self.instance = InstanceNorm(self.count, eps=eps)
        self.batch = BatchNorm(dim - self.count, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        channels = 1 if x.ndim == 4 else -1
        first, rest = x.split([self.count, x.shape[channels] - self.count], channels)
        return torch.cat([self.instance(first), self.batch(rest)], channels)
