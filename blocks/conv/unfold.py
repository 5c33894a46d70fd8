"""Overlapping patches of an image as the channels of a smaller one. Paper: arXiv:2101.11986 (T2T-ViT's soft split)."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]


@block(
    "unfold",
    kind="downsample",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2101.11986",
    covers=("soft_split", "im2col"),
)
class Unfold(nn.Module):
    """y = the k x k neighbours of every `stride`-th position one behind the other, all of a channel before the next channel's.

    (B, C, H, W) -> (B, k^2 C, H', W') with H' = floor((H + 2 padding - k) / stride) + 1, and zeros beyond the border. A `dense` behind it
    is a convolution; several of other kernels side by side make an embedding of several scales.
    """

    def __init__(self, dim: int, *, kernel_size: Count = 3, stride: Count = 2, padding: Annotated[int, Meta(ge=0)] = 1):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.out_dim = dim * kernel_size**2

    def forward(self, x: Tensor) -> Tensor:
        y = F.unfold(x, self.kernel_size, padding=self.padding, stride=self.stride)
        size = self._side(x.shape[2]), self._side(x.shape[3])
        return y.unflatten(2, size).contiguous(memory_format=torch.channels_last)

    def _side(self, length: int) -> int:
        return (length + 2 * self.padding - self.kernel_size) // self.stride + 1
