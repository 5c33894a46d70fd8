"""Attention that looks at a few places of each of several maps, wherever it thinks they are. Paper: arXiv:2010.04159 (Deformable DETR).

Upstream: fundamentalvision/Deformable-DETR (Apache-2.0), its form without reference boxes. N is here the number of maps.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.chain import as_stream, as_tokens
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.wiring.merges import one_width

Count = Annotated[int, Meta(ge=1)]


@block(
    "deformable_attention",
    kind="merge",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2010.04159",
    covers=("ms_deform_attn", "deformable_detr"),
)
class DeformableAttention(nn.Module):
    """y = W_o concat_h sum_{n,k} a_hnk (W_v x_n)_h(p + o_hnk), o = W_p q + b_p in pixels of map n, a = softmax_{n,k}(W_a q + b_a).

    q, and N maps x_n (B, C, H_n, W_n) -> the shape of q. q is an image, or tokens (B, L, C) that stand for all pixels of the maps, one
    map behind the other, row by row; p is where a query stands in its own map, as shares of its sides. Each head looks at `points`
    places of each map; between pixels x is bilinear, beyond the border zero. At first a head looks straight on in a direction of its
    own, one pixel further with each point. Raises ValueError for several widths, for maps without pixels, and for tokens that are not the pixels of the maps.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        points: Count = 4,
    ):
        super().__init__()
        if len(dims) < 2:
            raise ValueError("a deformable attention needs something to look at: queries, and a map or more")
        dim = one_width(dims)
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.maps, self.points, self.out_dim = len(dims) - 1, points, dim
        places, width = self.num_heads * self.maps * points, self.num_heads * self.head_dim
        self.offsets = Dense(dim, 2 * places)
        self.scores = Dense(dim, places)
        self.value = Dense(dim, width)
        self.proj = Dense(width, dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for layer in (self.offsets, self.scores):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.offsets.bias.copy_(rays(self.num_heads, self.maps, self.points).to(self.offsets.bias))

    def forward(self, q: Tensor, *maps: Tensor) -> Tensor:
        refuse_empty(maps)
        queries = as_tokens(q)
        shape = (self.num_heads, self.maps, self.points)
        steps = self.offsets(queries).unflatten(-1, (*shape, 2))
        weights = self.scores(queries).unflatten(-1, (self.num_heads, -1)).softmax(-1).unflatten(-1, shape[1:])
        stands = self._stands(q, maps)[:, None, None]  # (L, 1, 1, 2)
        y: Tensor | None = None
        for n, x in enumerate(maps):
            across, down = (steps[:, :, :, n, :, axis] / side for axis, side in enumerate((x.shape[3], x.shape[2])))
            grid = 2 * (stands + torch.stack([across, down], -1)) - 1  # (B, L, heads, points, 2), from -1 to 1
            values = self.value(as_tokens(x)).unflatten(-1, (self.num_heads, -1)).permute(0, 2, 3, 1)
            values = values.flatten(0, 1).unflatten(-1, tuple(x.shape[2:]))  # (B * heads, head_dim, H, W)
            seen = F.grid_sample(values, grid.transpose(1, 2).flatten(0, 1), align_corners=False)
            looked = (seen * weights[:, :, :, n].transpose(1, 2).flatten(0, 1).unsqueeze(1)).sum(-1)
            y = looked if y is None else y + looked
        y = y.unflatten(0, (-1, self.num_heads)).permute(0, 3, 1, 2).flatten(2)  # type: ignore[union-attr]
        return as_stream(self.proj(y), q)

    def _stands(self, q: Tensor, maps: tuple[Tensor, ...]) -> Tensor:
        """(L, 2): the column and the row of each query in its own map, from 0 to 1."""
        sizes = [q.shape[2:]] if q.ndim == 4 else [x.shape[2:] for x in maps]
        if q.ndim == 3 and q.shape[1] != sum(math.prod(size) for size in sizes):
            found = ", ".join(f"{H} x {W}" for H, W in sizes)
            raise ValueError(f"{q.shape[1]} queries are not the pixels of maps of {found}")
        return torch.cat([middles(H, W, q) for H, W in sizes])


def refuse_empty(maps: tuple[Tensor, ...]) -> None:
    """Raises ValueError for maps without pixels."""
    empty = [f"{x.shape[2]} x {x.shape[3]}" for x in maps if type(x) is Tensor and not math.prod(x.shape[2:])]
    if empty:
        raise ValueError(f"maps of {', '.join(empty)} pixels have no place to look at")


def middles(height: int, width: int, like: Tensor) -> Tensor:
    """(H * W, 2): column and row of the middle of each pixel, from 0 to 1, on the device and in the dtype of `like`."""
    rows, columns = (
        (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) / side for side in (height, width)
    )
    return torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], -1).flatten(0, 1)


def rays(heads: int, maps: int, points: int) -> Tensor:
    """(heads * maps * points * 2,): head h looks in direction 2 pi h / heads, at point k from 1 the k-th pixel of a square around it."""
    angles = 2 * math.pi * torch.arange(heads, dtype=torch.float64) / heads
    directions = torch.stack([angles.cos(), angles.sin()], -1)
    directions = directions / directions.abs().amax(-1, keepdim=True)
    reach = torch.arange(1, points + 1, dtype=torch.float64)
    return (directions[:, None, None, :] * reach[:, None]).expand(heads, maps, points, 2).flatten()
