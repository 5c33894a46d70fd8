"""Where a pixel is, as channels. Paper: arXiv:1807.03247."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blocks.registry import block


@block(
    "coordinates",
    kind="downsample",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:1807.03247",
    covers=("coord_conv",),
)
class Coordinates(nn.Module):
    """y = x and two channels more: the row and the column of each pixel, from -1 at the first to 1 at the last.

    (B, C, H, W) -> (B, C + 2, H, W).
    """

    def __init__(self, dim: int):
        super().__init__()
        self.out_dim = dim + 2

    def forward(self, x: Tensor) -> Tensor:
        B, _, H, W = x.shape
        rows, columns = (torch.linspace(-1, 1, side, device=x.device, dtype=x.dtype) for side in (H, W))
        places = torch.stack([rows[:, None].expand(H, W), columns.expand(H, W)], -1).expand(B, H, W, 2)
        return torch.cat([x.permute(0, 2, 3, 1), places], -1).permute(0, 3, 1, 2)
