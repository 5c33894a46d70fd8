"""RIFormer's mixer, which mixes nothing and is gone after training.

Paper: arXiv:2304.05659. Upstream: open-mmlab/mmpretrain (Apache-2.0).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.registry import block


@block(
    "affine_mixing",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2304.05659",
    covers=("riformer",),
)
class AffineMixing(nn.Module):
    """y = weight * x + bias - x, per channel; at first 0.  (eq. 3)

    (B, C, H, W) -> (B, C, H, W). The norm before it takes it up in the deploy form. It runs as the 1 x 1 depthwise
    convolution of the paper, and is counted as one.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        return {"convolution": math.prod(shape)}

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.view(-1, 1, 1, 1), self.bias, groups=x.shape[1]) - x

    def as_affine(self) -> tuple[Tensor, Tensor]:
        """(scale, shift) of y = scale x + shift."""
        return self.weight - 1, self.bias
