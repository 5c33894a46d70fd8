"""TransNeXt's attentions: to near positions one by one and to far ones pooled, under one softmax; and to all, by cosine.

Paper: arXiv:2311.17132 (sections 3.1 to 3.3). Upstream: DaiShiResearch/TransNeXt (Apache-2.0), whose names the state keeps.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.errors import SizeError
from blocks.tables import Table

Count = Annotated[int, Meta(ge=1)]
Size = tuple[int, ...]
TEMPERATURE = math.log(math.exp(1 / 0.24) - 1)
"""softplus of this is 1 / 0.24, what scores are multiplied with at first."""
BIAS_WIDTH = 512
REACH = 8
"""Distances are brought to [-REACH, REACH] over the whole image, then to logarithms of that base."""


class Geometry(NamedTuple):
    """What follows from the size of a map: that of its pooled copy, logarithms of numbers of keys, and distances."""

    size: Size
    pooled: Size
    scale: Table
    coordinates: Table
    which: Table


class CosineBase(nn.Module):
    """What both attentions share: heads, a learned temperature, an embedding added to each query, and a bias of distances."""

    no_decay = ("temperature", "query_embedding")
    scale: Table
    elsewhere: Geometry | None = None
    """What was last made for an input of another size."""

    def __init__(
        self, dim: int, num_heads: int | None, head_dim: int | None, size: Size, pooled: Size, dynamic_size: bool
    ):
        super().__init__()
        self.dynamic_size = dynamic_size
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.input_size, self.pooled = _rows_columns(size), _rows_columns(pooled)
        self.temperature = nn.Parameter(torch.empty(self.num_heads, 1, 1))
        self.query_embedding = nn.Parameter(torch.empty(self.num_heads, 1, self.head_dim))
        self.position = DistanceBias(self.num_heads)
        self.coordinates = Table(distances, (self.input_size, self.pooled))
        self.which = Table(which_distance, (self.input_size, self.pooled))

    def reset_parameters(self) -> None:
        nn.init.constant_(self.temperature, TEMPERATURE)
        nn.init.trunc_normal_(self.query_embedding, std=0.02)

    def scaled(self, q: Tensor, scale: Table) -> Tensor:
        """Unit queries (B, heads, L, head_dim), with their embedding, times temperature and the logarithm of the number of keys."""
        return (q + self.query_embedding) * F.softplus(self.temperature) * scale.like(self.temperature)

    def heads(self, x: Tensor, count: int) -> Tensor:
        """(B, L, count * C) -> (B, count * heads, L, head_dim)."""
        return x.unflatten(-1, (count * self.num_heads, self.head_dim)).transpose(1, 2)

    def geometry(self, size: Size) -> Geometry:
        """The tables for inputs of this size. Raises SizeError for another than that of `input_size`, unless `dynamic_size`."""
        if self.dynamic_size and len(size) == 2 and size != self.input_size:
            if self.elsewhere is None or self.elsewhere.size != size:
                self.elsewhere = self.geometry_of((size[0], size[1]))
            return self.elsewhere
        if math.prod(size) != math.prod(self.input_size) or (len(size) == 2 and size != self.input_size):
            raise SizeError(
                f"these distances are for inputs of size {self.input_size} and meet {tuple(size)}; build the model with that size"
            )
        return Geometry(self.input_size, self.pooled, self.scale, self.coordinates, self.which)

    def geometry_of(self, size: tuple[int, int]) -> Geometry:
        """The tables for maps of any size."""
        raise NotImplementedError  # each attention has its own keys; this class is their common part


@block(
    "cosine_attention",
    kind="token_mixer",
    abilities=("noncausal", "2d"),
    paper="arXiv:2311.17132",
    covers=("length_scaled_cosine_attention",),
)
class CosineAttention(CosineBase):
    """y = W_o softmax(tau log(L) (q / |q| + e) (k / |k|)^T + B) v, with [q | k | v] = W_qkv x and B an MLP of the distances.

    (B, C, H, W) or (B, L, C) -> the same shape, for the one size it was built for; with `dynamic_size` an image may have any other.
    Raises ValueError when heads do not divide, and SizeError for another size.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        dynamic_size: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = False,
        input_size: tuple[int, ...] = (14, 14),
    ):
        super().__init__(dim, num_heads, head_dim, input_size, input_size, dynamic_size)
        self.qkv = Dense(dim, 3 * self.num_heads * self.head_dim)
        self.proj = Dense(self.num_heads * self.head_dim, dim)
        self.scale = Table(log_positions, self.input_size)
        self.reset_parameters()

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums: 2 L^2 num_heads head_dim."""
        B, L = shape[0], math.prod(shape[2:]) if len(shape) == 4 else shape[1]
        return {"matmul": 2 * B * L**2 * self.num_heads * self.head_dim}

    def geometry_of(self, size: tuple[int, int]) -> Geometry:
        return geometry(size, size, Table(log_positions, size))

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[2:] if x.ndim == 4 else x.shape[1:2])
        at = self.geometry(size)
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2) if x.ndim == 4 else x
        q, k, v = self.heads(self.qkv(tokens), 3).chunk(3, 1)
        unit_k = F.normalize(k, dim=-1).transpose(-2, -1)
        scores = self.scaled(F.normalize(q, dim=-1), at.scale) @ unit_k + self.position(at)
        y = self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return y.unflatten(1, size).permute(0, 3, 1, 2) if x.ndim == 4 else y


@block(
    "aggregated_attention",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "2d"),
    paper="arXiv:2311.17132",
    covers=("aggregated_pixel_focused_attention",),
)
class AggregatedAttention(CosineBase):
    """y = W_o (P_far V_far + (P_near + T q / |q| + b) V_near), [P_near | P_far] one softmax of cosine scores.

    Near: the `window` x `window` neighbours; far: the whole map averaged to 1 / `pool` of its rows and columns, after a pointwise
    map and a norm. T holds learned tokens for the neighbours, b a bias. Scores grow with the logarithm of the number of keys
    that a position has. (B, C, H, W) -> (B, C, H, W) for the one size it was built for, or with `dynamic_size` for any. Raises
    ValueError when heads do not divide and for an even window, which has no centre; SizeError for another size.
    """

    def __init__(
        self,
        dim: int,
        *,
        window: Annotated[int, Meta(ge=1, le=31)] = 3,
        pool: Count = 2,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        dynamic_size: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = False,
        input_size: tuple[int, ...] = (14, 14),
    ):
        if window % 2 == 0:
            raise ValueError(f"a window of {window} has no centre; the nearest that has is {window + 1}")
        super().__init__(dim, num_heads, head_dim, input_size, pooled_size(input_size, pool), dynamic_size)
        self.pool = pool
        self.window, count, width = window, window**2, self.num_heads * self.head_dim
        self.q = Dense(dim, width)
        self.kv = Dense(dim, 2 * width)
        self.proj = Dense(width, dim)
        self.sr = Dense(dim)
        self.norm = nn.LayerNorm(dim)
        self.relative_pos_bias_local = nn.Parameter(torch.empty(self.num_heads, count))
        self.learnable_tokens = nn.Parameter(torch.empty(self.num_heads, self.head_dim, count))
        self.learnable_bias = nn.Parameter(torch.empty(self.num_heads, 1, count))
        self.outside = Table(beyond_border, (*self.input_size, window))
        self.scale = Table(log_keys, (*self.input_size, window, math.prod(self.pooled)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.trunc_normal_(self.relative_pos_bias_local, std=0.0004)
        nn.init.trunc_normal_(self.learnable_tokens, std=0.02)
        nn.init.zeros_(self.learnable_bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Near: scores, learned tokens and sums over window^2 neighbours; far: scores and sums over the pooled map."""
        B, _, H, W = shape
        keys = 3 * self.window**2 + 2 * math.prod(self.pooled)
        return {"matmul": B * H * W * keys * self.num_heads * self.head_dim}

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[2:]
        at = self.geometry((H, W))
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
        q = F.normalize(self.heads(self.q(tokens), 1), dim=-1)
        scaled = self.scaled(q, at.scale)
        near_k, near_v = self._neighbours(self.kv(tokens), H, W)
        near = (scaled.unsqueeze(-2) @ near_k).squeeze(-2) + self.relative_pos_bias_local.unsqueeze(1)
        far_k, far_v = self.heads(self.kv(self._pooled(x, at.pooled)), 2).chunk(2, 1)
        far = scaled @ F.normalize(far_k, dim=-1).transpose(-2, -1) + self.position(at)
        outside = self.outside
        if self.dynamic_size and self.input_size != (H, W):
            outside = Table(beyond_border, (H, W, self.window))
        near = near.masked_fill(outside.like(near), float("-inf"))
        near, far = torch.cat([near, far], -1).softmax(-1).split([self.window**2, far.shape[-1]], -1)
        near = q @ self.learnable_tokens + self.learnable_bias + near
        y = (near.unsqueeze(-2) @ near_v.transpose(-2, -1)).squeeze(-2) + far @ far_v
        y = self.proj(y.transpose(1, 2).flatten(2))
        return y.unflatten(1, (H, W)).permute(0, 3, 1, 2)

    def _neighbours(self, kv: Tensor, H: int, W: int) -> tuple[Tensor, Tensor]:
        """Unit keys, and values, of each position's neighbours: (B, heads, L, head_dim, window^2) each."""
        k, v = kv.chunk(2, -1)
        k = F.normalize(k.unflatten(-1, (self.num_heads, self.head_dim)), dim=-1).flatten(2)
        image = torch.cat([k, v], -1).unflatten(1, (H, W)).permute(0, 3, 1, 2)
        patches = F.unfold(image, self.window, padding=self.window // 2)
        patches = patches.view(kv.shape[0], 2 * self.num_heads, self.head_dim, self.window**2, H * W)
        near_k, near_v = patches.permute(0, 1, 4, 2, 3).chunk(2, 1)
        return near_k, near_v

    def geometry_of(self, size: tuple[int, int]) -> Geometry:
        pooled = pooled_size(size, self.pool)
        return geometry(size, pooled, Table(log_keys, (*size, self.window, math.prod(pooled))))

    def _pooled(self, x: Tensor, size: Size) -> Tensor:
        """(B, C, H, W) -> (B, pooled positions, C)."""
        y = F.adaptive_avg_pool2d(F.gelu(self.sr(x)), (size[0], size[1]))
        return self.norm(y.permute(0, 2, 3, 1).flatten(1, 2))


class DistanceBias(nn.Module):
    """(heads, queries, keys): an MLP of the logarithmic distance from each query to each (pooled) key."""

    def __init__(self, num_heads: int):
        super().__init__()
        self.cpb_fc1 = Dense(2, BIAS_WIDTH)
        self.cpb_fc2 = Dense(BIAS_WIDTH, num_heads)

    def forward(self, at: Geometry) -> Tensor:
        table = self.cpb_fc2(F.relu(self.cpb_fc1(at.coordinates.like(self.cpb_fc1.weight))))
        return table.T[:, at.which.like(table)].unflatten(1, (math.prod(at.size), -1))


def pooled_size(size: Size, pool: int) -> Size:
    """Rows and columns of the pooled map."""
    return tuple(max(1, side // pool) for side in size)


def geometry(size: Size, pooled: Size, scale: Table) -> Geometry:
    """The tables of distances for a map and its pooled copy."""
    return Geometry(size, pooled, scale, Table(distances, (size, pooled)), Table(which_distance, (size, pooled)))


def log_positions(rows: int, columns: int) -> Tensor:
    """(L, 1): the logarithm of the number of positions, all of which are keys of each."""
    return torch.full((rows * columns, 1), math.log(rows * columns))


def log_keys(rows: int, columns: int, window: int, pooled: int) -> Tensor:
    """(L, 1): the logarithm of how many keys each position has, neighbours inside the map and pooled ones."""
    inside = ~beyond_border(rows, columns, window)
    return (inside.sum(1, keepdim=True, dtype=torch.float32) + pooled).log()


def beyond_border(rows: int, columns: int, window: int) -> Tensor:
    """(L, window^2): which neighbours of each position lie outside the map."""
    return F.unfold(torch.ones(1, 1, rows, columns), window, padding=window // 2)[0].T == 0


def distances(size: tuple[int, int], pooled: tuple[int, int]) -> Tensor:
    """(U, 2): the different distances of queries and keys, on a logarithmic scale."""
    rows, columns = (_along(length, keys)[0] for length, keys in zip(size, pooled, strict=True))
    far = torch.cartesian_prod(rows, columns)
    return far.sign() * torch.log2(far.abs() + 1.0) / math.log2(REACH)


def which_distance(size: tuple[int, int], pooled: tuple[int, int]) -> Tensor:
    """(queries * keys,): which row of `distances` each pair has."""
    (_, row), (columns, column) = (_along(length, keys) for length, keys in zip(size, pooled, strict=True))
    return (row[:, None, :, None] * len(columns) + column[None, :, None, :]).flatten()


def _along(length: int, keys: int) -> tuple[Tensor, Tensor]:
    """The different distances on one axis, and (length, keys) which of them each pair has. Keys stand at the mean of their part."""
    at = torch.arange(length, dtype=torch.float32)
    centres = F.adaptive_avg_pool1d(at[None], keys)[0]
    values, which = torch.unique((at[:, None] - centres) / max(1, length - 1) * REACH, return_inverse=True)
    return values, which


def _rows_columns(size: Size) -> tuple[int, int]:
    return (size[0], size[1]) if len(size) == 2 else (1, size[0])
