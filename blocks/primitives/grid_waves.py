"""Where a pixel is, as waves of its row and its column, for maps of any size. Paper: arXiv:2005.12872 (DETR).

Upstream: facebookresearch/detr (Apache-2.0), `PositionEmbeddingSine` with `normalize`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from blocks.registry import block

PERIOD = 10_000
"""How many times longer than the shortest wave the longest would be."""


@block(
    "grid_waves",
    kind="embed",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2005.12872",
    covers=("position_embedding_sine",),
)
class GridWaves(nn.Module):
    """y = x + P + v, or with `alone` y = P + v: P the waves sin(w_i a), cos(w_i a), w_i = 10000^(-4 i / C), of each pixel.

    (B, C, H, W) -> (B, C, H, W). Channels are those of the row, then those of the column; a = 2 pi (r + 1) / H in row r of H, so that
    maps of several sizes share their angles. v (C,), where `vector` asks for one, is learned: which of several maps this is. Raises
    ValueError for a width that is no multiple of 4.
    """

    no_decay = ("vector",)

    vector: nn.Parameter | None

    def __init__(self, dim: int, *, alone: bool = False, vector: bool = False):
        super().__init__()
        if dim % 4:
            raise ValueError(f"waves of rows and columns need a multiple of 4 channels; there are {dim}")
        self.alone = alone
        self.register_parameter("vector", nn.Parameter(torch.empty(dim)) if vector else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.vector is not None:
            nn.init.normal_(self.vector)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        rows, columns = waves(H, C // 2, x), waves(W, C // 2, x)
        table = torch.cat([rows[:, None].expand(-1, W, -1), columns.expand(H, -1, -1)], -1)
        if self.vector is not None:
            table = table + self.vector
        table = table.permute(2, 0, 1)
        return table.expand(B, -1, -1, -1) if self.alone else x + table


def waves(length: int, width: int, like: Tensor) -> Tensor:
    """(length, width): sines in even columns and cosines in odd ones, on the device and in the dtype of `like`."""
    steps = torch.arange(1, length + 1, device=like.device, dtype=torch.float64)
    rates = PERIOD ** (-2 * torch.arange(width // 2, device=like.device, dtype=torch.float64) / width)
    angles = (2 * math.pi * steps / (length + 1e-6))[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1).to(like.dtype)
