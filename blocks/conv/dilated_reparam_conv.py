"""UniRepLKNet's large kernel: trained beside small dilated kernels, deployed as one.

Paper: arXiv:2311.15599. Upstream: AILab-CVC/UniRepLKNet (Apache-2.0). Differs from upstream: the branches are folded in
the dtype of the model, which the caller makes float64; there is no switch for synchronised batch norms.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from blocks.chain import Chain
from blocks.conv.conv import Conv, DepthwiseConv
from blocks.primitives.norms import BatchNorm
from blocks.registry import block

# kernel size -> (kernel size, dilation) of the parallel branches; none of them reaches further than the large kernel
BRANCHES: dict[int, tuple[tuple[int, int], ...]] = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}


@block(
    "dilated_reparam_conv",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2311.15599",
    covers=("dilated_reparam_block", "unireplknet"),
)
class DilatedReparamConv(nn.Module):
    """y = BN(DW_k x) + sum_i BN_i(DW_{k_i, d_i} x): a large depthwise kernel trained with dilated branches.

    (B, C, H, W) -> (B, C, H, W). `fuse()` adds the branches, spread out with zeros between their taps, into one k x k
    kernel with bias.
    """

    def __init__(self, dim: int, *, kernel_size: Literal[5, 7, 9, 11, 13, 15, 17] = 13):
        super().__init__()
        self.dim, self.kernel_size = dim, kernel_size
        self.large = _Branch(dim, kernel_size, 1)
        self.dilated = nn.ModuleList(_Branch(dim, size, dilation) for size, dilation in BRANCHES[kernel_size])

    def forward(self, x: Tensor) -> Tensor:
        y = self.large(x)
        for branch in self.dilated:
            y = y + branch(x)
        return y

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        convs: list[Conv] = [branch.conv for branch in (self.large, *self.dilated)]  # their norms are folded by now
        fused = DepthwiseConv(self.dim, kernel_size=self.kernel_size)
        weight = torch.stack([spread(conv, self.kernel_size) for conv in convs]).sum(0)
        bias = torch.stack([conv.bias for conv in convs if conv.bias is not None]).sum(0)
        fused.conv.weight, fused.conv.bias = (nn.Parameter(value, requires_grad=False) for value in (weight, bias))
        return fused


class _Branch(Chain):
    """A depthwise convolution without bias, and its batch norm."""

    def __init__(self, dim: int, kernel_size: int, dilation: int):
        super().__init__()
        self.conv = Conv(dim, kernel_size=kernel_size, dilation=dilation, groups=dim, bias=False)
        self.norm = BatchNorm(dim)


def spread(conv: nn.Conv2d, kernel_size: int) -> Tensor:
    """The undilated kernel (C, 1, kernel_size, kernel_size) that does what the dilated `conv` does."""
    weight, dilation = conv.weight, conv.dilation[0]
    reach = dilation * (weight.shape[-1] - 1) + 1
    margin = (kernel_size - reach) // 2
    taps = slice(margin, margin + reach, dilation)
    out = weight.new_zeros(*weight.shape[:2], kernel_size, kernel_size)
    out[:, :, taps, taps] = weight
    return out
