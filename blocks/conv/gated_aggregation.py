"""MogaNet's two aggregations: of several orders of neighbourhoods under a gate, and of the channels of a hidden layer.

Paper: arXiv:2211.03295. Upstream: Westlake-AI/MogaNet (Apache-2.0).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import per_channel, run
from blocks.context import Context
from blocks.conv.conv import conv2d
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.slots import Act, slot

INITIAL = 1e-5
"""What the learned strengths of both decompositions start from."""


@block(
    "gated_aggregation",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2211.03295",
    covers=("multi_order_gated_aggregation", "moganet"),
)
class GatedAggregation(nn.Module):
    """z = W_1 x; z <- silu(z + sigma (z - mean_HW z)); y = x + W_2(silu(W_g z) * silu(V z)).  (eqs. 5 to 8)

    V sees three orders of neighbours: a depthwise 5 x 5 on all channels, then on 3/8 of them a 5 x 5 of dilation 2, on
    1/2 a 7 x 7 of dilation 3, and a pointwise map. (B, C, H, W) -> (B, C, H, W). The skip is its own, inside the
    residual's, so a norm before it does not fold.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.proj_1 = Dense(dim)
        self.sigma = nn.Parameter(torch.empty(dim))
        self.gate = Dense(dim)
        self.value = MultiOrderConv(dim)
        self.proj_2 = Dense(dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.sigma, INITIAL)

    def forward(self, x: Tensor) -> Tensor:
        z = self.proj_1(x)
        z = F.silu(z + per_channel(self.sigma, z) * (z - z.mean((2, 3), keepdim=True)))
        return x + self.proj_2(F.silu(self.gate(z)) * F.silu(self.value(z)))


class MultiOrderConv(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): the neighbourhoods of three orders, each on its share of the channels, and a mix."""

    def __init__(self, dim: int):
        super().__init__()
        middle, high = int(dim * 3 / 8), int(dim / 2)
        self.widths = dim - middle - high, middle, high
        self.low = conv2d(dim, dim, 5, padding=2, groups=dim)
        self.middle = conv2d(middle, middle, 5, padding=4, dilation=2, groups=middle)
        self.high = conv2d(high, high, 7, padding=9, dilation=3, groups=high)
        self.mix = Dense(dim)

    def forward(self, x: Tensor) -> Tensor:
        low, middle, high = self.low(x).split(self.widths, 1)
        return self.mix(torch.cat([low, self.middle(middle), self.high(high)], 1))


@block(
    "channel_aggregation",
    kind="channel_mixer",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2211.03295",
)
class ChannelAggregation(nn.Module):
    """y = x + sigma (x - act(w . x + b)): each channel is set against one mix of all channels.  (eq. 10)

    (B, C, H, W) or (B, L, C) -> the same shape; `sigma` (C,) starts near 0.
    """

    def __init__(self, dim: int, *, act: Act | None = slot("gelu")):
        super().__init__()
        self.mix = Dense(dim, 1)
        self.act = act(1) if act else None
        self.sigma = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.sigma, INITIAL)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        mixed = self.mix(x)
        if self.act is not None:
            mixed = run(self.act, mixed, ctx)
        return x + per_channel(self.sigma, x) * (x - mixed)
