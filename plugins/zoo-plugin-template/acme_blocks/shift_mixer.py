"""The shift mixer: neighbours meet by moving channels, not by weighing them. Paper: arXiv:2201.10801 (ShiftViT)."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

import blocks


@blocks.block(
    "acme/shift_mixer@1",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2201.10801",
)
class ShiftMixer(nn.Module):
    """y = W shift(x): the first four shares of the channels move one pixel left, right, up and down, the rest stays.

    (B, C, H, W) -> (B, C, H, W). What moves in at a border is 0. W is a pointwise linear map, `proj.weight` (C, C). Each share has
    floor(share * C) channels. Raises ValueError when the four together exceed C.
    """

    def __init__(self, dim: int, *, share: Annotated[float, Meta(gt=0, le=0.25)] = 1 / 12, bias: bool = True):
        super().__init__()
        self.width = int(share * dim)
        if self.width == 0:
            raise ValueError(
                f"share = {share:g} of {dim} channels is none; the smallest that moves one is {1 / dim:.4g}"
            )
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        left, right, up, down, rest = x.split([self.width] * 4 + [x.shape[1] - 4 * self.width], 1)
        moved = [
            F.pad(left[..., 1:], (0, 1)),
            F.pad(right[..., :-1], (1, 0)),
            F.pad(up[:, :, 1:], (0, 0, 0, 1)),
            F.pad(down[:, :, :-1], (0, 0, 1, 0)),
        ]
        y = torch.cat([*moved, rest], 1).permute(0, 2, 3, 1)  # a view of what lies in channels_last memory
        return self.proj(y).permute(0, 3, 1, 2)
