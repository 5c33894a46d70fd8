"""Means over the cells of a coarse grid: what pyramids of pooled maps are made of."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.registry import block


@block(
    "grid_pool",
    kind="pool",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:1612.01105",
    covers=("adaptive_avg_pool", "pyramid_pooling"),
)
class GridPool(nn.Module):
    """y = the mean of each channel over each of `size` x `size` cells that cover the map.

    (B, C, H, W) -> (B, C, size, size). Cells of a map that they do not divide overlap by a row or a column.
    """

    def __init__(self, *, size: Annotated[int, Meta(ge=1, le=64)] = 2):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, self.size)
