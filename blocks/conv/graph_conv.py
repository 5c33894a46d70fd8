"""GreedyViG's graph convolution: of the positions in its row and column that resemble it, each takes the largest difference.

Paper: arXiv:2405.06849 (dynamic axial graph construction). Upstream: SLDGroup/GreedyViG (Apache-2.0).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.conv.conv import ConvNormAct
from blocks.registry import block
from blocks.registry.slots import Act, Norm, slot


@block(
    "axial_graph_conv",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2405.06849",
    covers=("greedyvig", "max_relative_graph_conv"),
)
class AxialGraphConv(nn.Module):
    """y = act(norm(W [x | m] + b)), m = max(0, max over neighbours n of x_n - x), of those n with |x_n - x|_1 < mean - std.

    (B, C, H, W) -> (B, out_dim, H, W). Neighbours lie `step`, 2 `step`, ... rows or columns away, round the border. Mean and deviation
    (of a sample) are those of the distance of each position to the one half a map away in both directions.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        step: Annotated[int, Meta(ge=1)] = 1,
        norm: Norm | None = slot("batch_norm"),
        act: Act | None = slot("gelu"),
    ):
        super().__init__()
        self.step, self.out_dim = step, out_dim or dim
        self.mix = ConvNormAct(2 * dim, self.out_dim, kernel_size=1, norm=norm, act=act)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        height, width = x.shape[2:]
        reference = distance(x, x.roll(((height + 1) // 2, (width + 1) // 2), (2, 3)))
        if type(x) is Tensor and reference.numel() <= len(x):  # one position has no neighbours, and no deviation
            return run(self.mix, torch.cat([x, torch.zeros_like(x)], 1), ctx)
        spread, mean = torch.var_mean(reference, (2, 3), correction=1, keepdim=True)
        bound = mean - spread.sqrt()
        most = torch.zeros_like(x)
        for axis, length in ((2, height), (3, width)):
            for shift in range(self.step, length, self.step):
                moved = x.roll(shift, axis) - x
                near = moved.abs().sum(1, keepdim=True) < bound
                most = torch.maximum(most, moved * near)
        return run(self.mix, torch.cat([x, most], 1), ctx)


def distance(x: Tensor, y: Tensor) -> Tensor:
    """(B, 1, H, W): the sum over channels of what they differ by."""
    return (x - y).abs().sum(1, keepdim=True)
