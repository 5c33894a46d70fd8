"""What the windows around a window say of it. Paper: arXiv:2211.11436 (N-Gram in Swin Transformers), in HiT-SR's form.

Names of the state follow XiangZ-0/HiT-SR (Apache-2.0).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.window_attention import WindowAttention
from blocks.chain import run
from blocks.context import Context
from blocks.conv.conv import conv2d
from blocks.registry import block
from blocks.registry.errors import SizeError
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]
NEIGHBOURS = 2


@block(
    "ngram_context",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "2d"),
    paper="arXiv:2211.11436",
    covers=("ngram_swin", "sliding_wsa"),
)
class NgramContext(nn.Module):
    """y = x + up(W [f | b]): each window is told what its neighbours hold, f of those below and to the right, b of those above and to the left.

    (B, C, H, W) -> (B, C, H, W). A window of `window` x `window` pixels is one number for each pair of channels, by a kernel that all pairs
    share; of each 2 x 2 windows attention with `num_heads` heads gives the mean of what it says. Beyond the border the map of windows is
    reflected. Raises ValueError for an odd width; SizeError for an image without two whole windows each way.
    """

    def __init__(self, dim: int, *, window: Count = 7, num_heads: Count = 1, linear: Linear = slot("dense")):
        super().__init__()
        if dim % 2:
            raise ValueError(f"{dim} channels are no pairs; the nearest number that is even is {dim + 1}")
        self.window = window
        self.unigram_embed = conv2d(2, 1, (window, window), stride=window)
        self.ngram_attn = WindowAttention(
            dim // 2, window=NEIGHBOURS, num_heads=num_heads, dynamic_size=True, input_size=(4, 4), linear=linear
        )
        self.merge = linear(dim, dim, bias=True)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        B, C, H, W = x.shape
        rows, columns = H // self.window, W // self.window
        if H % self.window or W % self.window or min(rows, columns) < NEIGHBOURS:
            raise SizeError(f"a map of {(H, W)} is not made of whole windows of {self.window}, two or more each way")
        pairs = self.unigram_embed(x.reshape(B * C // 2, 2, H, W)).view(B, C // 2, rows, columns)
        context = torch.cat([self._told(pairs, (0, 1, 0, 1), ctx), self._told(pairs, (1, 0, 1, 0), ctx)], 1)
        context = run(self.merge, context, ctx)[:, :, :, None, :, None]
        return (
            (x.unflatten(3, (columns, self.window)).unflatten(2, (rows, self.window)) + context)
            .flatten(4)
            .flatten(2, 3)
        )

    def _told(self, pairs: Tensor, border: tuple[int, int, int, int], ctx: Context | None) -> Tensor:
        """(B, C / 2, windows): what each 2 x 2 windows of the map, with a border, say of themselves on the mean."""
        map = F.pad(pairs, border, mode="reflect")
        squares = map.unfold(2, NEIGHBOURS, 1).unfold(3, NEIGHBOURS, 1)
        return F.avg_pool2d(self.ngram_attn(squares.transpose(3, 4).flatten(4).flatten(2, 3), ctx), NEIGHBOURS)
