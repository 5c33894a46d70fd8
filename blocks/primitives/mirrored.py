"""A view of the image continued by its own reflection, until its sides are whole numbers of windows."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block

Size = tuple[int, ...]


@block("mirrored", kind="view", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class Mirrored(nn.Module):
    """The image continued below and to the right as if mirrors stood at its borders, up to multiples of `size` pixels; cut off on the way out.

    (B, C, H, W) -> (B, C, H', W'), H' = ceil(H / size) size. The outermost pixels are not repeated; where the continuation is longer than
    the image it is mirrored back and forth.
    """

    def __init__(self, *, size: Annotated[int, Meta(ge=1)] = 8):
        super().__init__()
        self.size = size

    def inner_size(self, size: Size) -> Size:
        return tuple(side + -side % self.size for side in size)

    def enter(self, x: Tensor) -> tuple[Tensor, Size]:
        size = tuple(x.shape[2:])
        y = x.permute(0, 2, 3, 1)
        for axis, side, length in zip((1, 2), size, self.inner_size(size), strict=True):
            if length > side:
                y = y.index_select(axis, _reflection(side, length, x))
        return y.permute(0, 3, 1, 2), size

    def exit(self, y: Tensor, memo: Size) -> Tensor:
        H, W = memo
        return y[:, :, :H, :W].contiguous(memory_format=torch.channels_last)


def _reflection(side: int, length: int, x: Tensor) -> Tensor:
    """0, 1, …, side - 1, side - 2, …, 0, 1, …: which of `side` pixels stands at each of `length` places."""
    period = max(2 * (side - 1), 1)
    place = torch.arange(length, device=x.device) % period
    return torch.minimum(place, period - place).clamp(max=side - 1)
