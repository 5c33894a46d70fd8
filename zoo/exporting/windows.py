"""Window attention on tokens: the same as the block's, cut by transposes of four axes and without turning the image."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.window_attention import WindowAttention
from blocks.chain import run
from blocks.context import Context


class Grid:
    """Rows and columns of the image that tokens were made of: noted where they are made, read where they become an image again."""

    size: tuple[int, int]


class TokenWindows(nn.Module):
    """`WindowAttention` of tokens (B, H*W, C) -> (B, H*W, C), with maps of the windows' tokens instead of the image."""

    takes_ctx = True

    def __init__(self, attention: WindowAttention, grid: Grid):
        super().__init__()
        self.attention, self.grid = attention, grid

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        block, (H, W) = self.attention, self.grid.size
        B, L, C = x.shape
        side, shift = block.window, block.shift
        bottom, right = -H % side, -W % side
        rows, columns = (H + bottom) // side, (W + right) // side
        y = x.reshape(B, H, W, C)
        if shift:
            y = y.roll((-shift, -shift), (1, 2))
        if bottom or right:
            y = F.pad(y, (0, 0, 0, right, 0, bottom))
        y = y.reshape(B * rows, side, columns, side * C).transpose(1, 2).reshape(B * rows * columns, side * side, C)
        y = run(block.proj, self._attended(run(block.qkv, y, ctx), (H, W)), ctx)
        y = y.reshape(B * rows, columns, side, side * C).transpose(1, 2).reshape(B, rows * side, columns * side, C)
        if bottom or right:
            y = y[:, :H, :W]
        if shift:
            y = y.roll((shift, shift), (1, 2))
        return y.reshape(B, L, C)

    def _attended(self, qkv: Tensor, size: tuple[int, int]) -> Tensor:
        """softmax(q k^T / sqrt(head_dim) + bias) v of [q | k | v] (B * windows, side^2, 3 heads head_dim)."""
        block = self.attention
        q, k, v = qkv.unflatten(-1, (3, block.num_heads, block.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * block.head_dim**-0.5) @ k.transpose(-2, -1)
        bias = block._bias(1, size)
        if len(bias) > 1:  # one for each window of an image
            scores = (scores.unflatten(0, (-1, len(bias))) + bias).flatten(0, 1)
        else:
            scores = scores + bias
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
