"""HiT-SR's correlations: attention without a softmax, between pixels and between channels, in time linear in the pixels of a window.

Paper: arXiv:2407.05878 (section 3.3). Names of the state follow XiangZ-0/HiT-SR (Apache-2.0).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.registry import block
from blocks.registry.errors import SizeError
from blocks.registry.slots import Linear, slot
from blocks.tables import Table

Count = Annotated[int, Meta(ge=1)]


@block(
    "window_correlation",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "2d"),
    paper="arXiv:2407.05878",
    covers=("hit_sr", "spatial_channel_correlation"),
)
class WindowCorrelation(nn.Module):
    """y = W_o [concat_h (q_h u_h^T / head_dim + B_h) u_h | v (v^T q) / L] of each window, [q | v] = x, u the v of the window in a coarse grid.

    (B, C, H, W) -> (B, C, H, W). The grid has at most `base` x `base` cells, each a learned mean of its pixels; B_h is a perceptron of the
    distance of two pixels, averaged over the cell. L pixels, no softmax; heads are C / (2 num_heads) wide. Raises ValueError for a window
    that is no whole number of cells and for heads that do not divide C / 2; SizeError for an image that is no whole number of windows.
    """

    def __init__(
        self,
        dim: int,
        *,
        window: Count = 7,
        base: Count = 8,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.window, self.base = window, min(window, base)
        if window % self.base or dim % 2:
            raise ValueError(f"{dim} channels in windows of {window} pixels are no queries and values on {base} cells")
        self.num_heads, self.head_dim = split_heads(dim // 2, num_heads, head_dim)
        self.side = window // self.base
        """Pixels along a side of a cell."""
        self.spatial_linear = nn.Linear(self.side**2, 1)
        self.pos = DistanceBias(max(dim // 16, 1), self.num_heads, self.base, self.side)
        self.proj = linear(dim, dim, bias=True)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Of each window: scores and sums on the grid, L base^2 C, and between channels, L C^2 / 2."""
        B, C, H, W = shape
        return {"matmul": B * H * W * C * (self.base**2 + C // 2)}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        H, W = x.shape[2:]
        if H % self.window or W % self.window:
            raise SizeError(f"a map of {(H, W)} is no whole number of windows of {self.window} x {self.window} pixels")
        q, v = self._windows(x).chunk(2, -1)  # (windows, L, C / 2)
        y = torch.cat([self._between_pixels(q, v), self._between_channels(q, v)], -1)
        return run(self.proj, self._image(y, H // self.window, W // self.window), ctx)

    def _between_pixels(self, q: Tensor, v: Tensor) -> Tensor:
        cells = v.unflatten(1, (self.base, self.side, self.base, self.side)).permute(0, 1, 3, 5, 2, 4).flatten(4)
        u = self._heads(self.spatial_linear(cells).squeeze(-1).flatten(1, 2))
        scores = self._heads(q) @ u.transpose(-1, -2) / self.head_dim + self.pos()
        return (scores @ u).transpose(1, 2).flatten(2)

    def _between_channels(self, q: Tensor, v: Tensor) -> Tensor:
        scores = q.transpose(-1, -2) @ v / self.window**2
        return v @ scores.transpose(-1, -2)

    def _heads(self, tokens: Tensor) -> Tensor:
        """(windows, N, C / 2) -> (windows, heads, N, head_dim)."""
        return tokens.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _windows(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B * windows, window^2, C)."""
        cut = x.permute(0, 2, 3, 1).unflatten(2, (-1, self.window)).unflatten(1, (-1, self.window))
        return cut.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def _image(self, y: Tensor, rows: int, columns: int) -> Tensor:
        """The inverse of `_windows`."""
        cut = y.unflatten(1, (self.window, self.window)).unflatten(0, (-1, rows, columns)).transpose(2, 3)
        return cut.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.proj.absorb_output(scale, shift))  # type: ignore[operator]


class DistanceBias(nn.Module):
    """B (heads, L, base^2): a perceptron of the distance between a pixel and those of a cell, the mean over the cell.

    A window has L = (base * side)^2 pixels and base^2 cells. The perceptron is `dim` wide and has a norm before each of its maps but the first.
    """

    def __init__(self, dim: int, num_heads: int, base: int, side: int):
        super().__init__()
        self.side, self.reach = side, 2 * base * side - 1
        self.pos_proj = nn.Linear(2, dim)
        self.pos1, self.pos2, self.pos3 = (
            nn.Sequential(nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, width)) for width in (dim, dim, num_heads)
        )
        self.distances = Table(all_distances, (base * side,))
        self.pairs = Table(pairs_of_cells, (base, side))

    def forward(self) -> Tensor:
        distances = self.distances.like(self.pos_proj.weight)
        bias = self.pos3(self.pos2(self.pos1(self.pos_proj(distances))))
        table = bias.T.unflatten(1, (self.reach, self.reach)).unsqueeze(0)
        means = F.avg_pool2d(table, self.side, 1).flatten(2).squeeze(0)
        return means[:, self.pairs.like(means)]


def all_distances(side: int) -> Tensor:
    """((2 side - 1)^2, 2) all differences of rows and of columns in a window, row by row."""
    steps = torch.arange(1 - side, side, dtype=torch.float64)
    return torch.cartesian_prod(steps, steps)


def pairs_of_cells(base: int, side: int) -> Tensor:
    """(L, base^2): where, in the table of means over side x side distances, that of a pixel and a cell stands."""
    pixels, cells = torch.arange(base * side), torch.arange(base) * side
    first = pixels[:, None] - cells + (base - 1) * side  # (pixels, cells) along one axis
    reach = 2 * base * side - side
    return (first[:, None, :, None] * reach + first[None, :, None, :]).flatten(2).flatten(0, 1)
