"""What a map says of surfaces: how far they are, and which way they face. Paper: arXiv:2304.06334 (iDisc)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.registry import block

LEAST = 0.01
"""How sure a direction is at least."""


@block("exp", kind="act", abilities=("causal", "noncausal", "any_resolution"))
class Exp(nn.Module):
    """y = e^x: a distance from its logarithm.

    Any shape -> the same shape.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


@block(
    "surface_normals",
    kind="norm",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2109.09881",
    covers=("unit_normals",),
)
class SurfaceNormals(nn.Module):
    """y = [n / sqrt(|n|^2 + 1e-6), elu(k) + 1.01] of x = [n | k]: a direction in all channels but the last, and how sure it is.

    (B, C, H, W) or (B, L, C) -> the same shape. Raises ValueError for a single channel, which leaves no direction.
    """

    def __init__(self, dim: int):
        super().__init__()
        if dim < 2:
            raise ValueError("a direction and how sure it is need two channels or more; there is one")

    def forward(self, x: Tensor) -> Tensor:
        axis = 1 if x.ndim > 3 else -1
        direction, sure = x.split([x.shape[axis] - 1, 1], axis)
        length = (direction.square().sum(axis, keepdim=True) + 1e-6).sqrt()
        return torch.cat([direction / length, F.elu(sure) + 1 + LEAST], axis)
