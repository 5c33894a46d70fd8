"""Stretches of a row as tokens: the embedding of bytes that are laid out as an image. Paper: arXiv:2405.11449 (NetMamba)."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.folding import scale_output
from blocks.registry import block


@block(
    "row_patches",
    kind="stem",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2405.11449",
    covers=("netmamba", "stride_embedding"),
)
class RowPatches(nn.Module):
    """y = W x + b of every `size` pixels that follow each other, read row by row.

    (B, C, H, W) -> (B, out_dim, H, W / size), the same as a convolution of the H*W pixels in a line, since no stretch crosses the end of a
    row. Raises ValueError for rows that are no whole number of stretches.
    """

    def __init__(
        self, dim: int, out_dim: int | None = None, *, size: Annotated[int, Meta(ge=1)] = 4, bias: bool = True
    ):
        super().__init__()
        self.size, self.out_dim = size, out_dim or dim
        self.proj = nn.Conv1d(dim, self.out_dim, size, size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[2:]
        if W % self.size:
            raise ValueError(f"rows of {W} pixels are no whole number of stretches of {self.size}")
        y: Tensor = self.proj(x.flatten(2))
        return y.unflatten(2, (H, W // self.size)).contiguous(memory_format=torch.channels_last)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        scale_output(self.proj, scale, shift)
        return True
