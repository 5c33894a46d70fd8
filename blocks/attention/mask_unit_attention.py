"""Attention inside the cells of a grid, or over the whole image, whose queries may be the maxima of neighbouring ones.

Papers: arXiv:2306.00989 (Hiera), arXiv:2308.11421 (TurboViT). Upstream: facebookresearch/hiera (Apache-2.0).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.primitives.views import cut_windows, join_windows
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "mask_unit_attention",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2306.00989",
    covers=("hiera", "turbovit", "q_pooling"),
)
class MaskUnitAttention(nn.Module):
    """y = W_o softmax(max(q) k^T / sqrt(head_dim)) v inside each `window`, [q | k | v] = W_qkv x, max that of `pool` x `pool` pixels.

    (B, C, H, W) -> (B, out_dim, ceil(H / pool), ceil(W / pool)). Without a `window` every pixel sees the image. Images that windows, or
    cells of the pooling, do not divide are filled up with zeros below and to the right, which are attended to. Of `num_heads` and
    `head_dim` one decides; with neither, heads are 32 wide. Raises ValueError when heads do not divide `out_dim`, and when `pool` does
    not divide `window`.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        window: Count | None = 8,
        pool: Count = 1,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        bias: bool = True,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        if window and window % pool:
            raise ValueError(f"cells of {pool} x {pool} pixels do not divide a window of {window}")
        self.out_dim, self.window, self.pool = out_dim or dim, window, pool
        self.num_heads, self.head_dim = split_heads(self.out_dim, num_heads, head_dim)
        width = self.num_heads * self.head_dim
        self.qkv = linear(dim, 3 * width, bias=bias)
        self.proj = linear(width, self.out_dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums of each window: 2 (L / pool^2) L num_heads head_dim for its L pixels."""
        B, _, H, W = shape
        cell = self.window or self.pool
        rows, columns = -(-H // cell) * cell, -(-W // cell) * cell
        length = self.window**2 if self.window else rows * columns
        windows = B * rows * columns // length
        return {"attention": 2 * windows * length * (length // self.pool**2) * self.num_heads * self.head_dim}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        B, _, H, W = x.shape
        cell = self.window or self.pool
        bottom, right = -H % cell, -W % cell
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        rows, columns = (H + bottom) // self.pool, (W + right) // self.pool
        qkv = run(self.qkv, x, ctx)
        windows = cut_windows(qkv, self.window) if self.window else qkv.permute(0, 2, 3, 1)
        q, k, v = windows.unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(3)  # (N, h, w, heads, head_dim)
        if self.pool > 1:
            q = q.unflatten(2, (-1, self.pool)).unflatten(1, (-1, self.pool)).amax((2, 4))
        h, w = q.shape[1:3]
        q, k, v = (each.flatten(1, 2).transpose(1, 2) for each in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).unflatten(1, (h, w))
        y = join_windows(y, (B, rows, columns)) if self.window else y.permute(0, 3, 1, 2)
        height, width = ((side + self.pool - 1) // self.pool for side in (H, W))
        return run(self.proj, y[..., :height, :width], ctx)
