"""The ghost module: half of the channels by a convolution, the other half by a cheap depthwise one of the first.

Paper: arXiv:1911.11907. Upstream: huawei-noah/Efficient-AI-Backbones (Apache-2.0).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.context import Context
from blocks.conv.conv import ConvNormAct
from blocks.registry import block
from blocks.registry.slots import Act, Norm, slot


@block(
    "ghost_conv",
    kind="whole",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:1911.11907",
    covers=("ghostnet", "ghost_module"),
)
class GhostConv(nn.Module):
    """y = the first out_dim channels of [p, act(norm(DW p))] with p = act(norm(W x)): W pointwise to ceil(out_dim / 2), DW depthwise.

    (B, C, H, W) -> (B, out_dim, H, W).
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 3,
        norm: Norm | None = slot("batch_norm"),
        act: Act | None = None,
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        self.out_dim = out_dim or dim
        half = (self.out_dim + 1) // 2
        bias = norm is None
        self.primary = ConvNormAct(dim, half, kernel_size=1, bias=bias, norm=norm, act=act)
        self.cheap = ConvNormAct(half, kernel_size=kernel_size, groups=half, bias=bias, norm=norm, act=act)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        primary = self.primary(x, ctx)
        y = torch.cat([primary, self.cheap(primary, ctx)], dim=1)
        return y if y.shape[1] == self.out_dim else y[:, : self.out_dim]
