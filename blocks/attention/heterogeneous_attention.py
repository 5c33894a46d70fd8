"""Attention among features of different kinds: every position has maps of its own. Paper: arXiv:2311.05884 (Hiformer).

N is here the number of features, each a position of the sequence, F the hidden width of a feed-forward part.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import split_heads
from blocks.attention.scores import attended
from blocks.chain import run
from blocks.context import Context
from blocks.ops.masks import refuse_state, token_mask
from blocks.registry import block
from blocks.registry.errors import SizeError
from blocks.registry.slots import Act, slot

Count = Annotated[int, Meta(ge=1)]


class PerPosition(nn.Module):
    """y_i = W_i x_i + b_i: a map of each position. (B, N, C) -> (B, N, out_dim)."""

    def __init__(self, positions: int, dim: int, out_dim: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(positions, dim, out_dim))
        self.bias = nn.Parameter(torch.empty(positions, out_dim)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        y = (x.transpose(0, 1) @ self.weight).transpose(0, 1)
        return y if self.bias is None else y + self.bias


@block(
    "heterogeneous_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal", "1d"),
    paper="arXiv:2311.05884",
    covers=("hiformer",),
)
class HeterogeneousAttention(nn.Module):
    """y_i = O_i concat_h softmax_j(q_ih k_jh / sqrt(head_dim)) v_jh, q_i = Q_i x_i: what i asks depends on which feature it is.

    (B, N, C) -> (B, N, C). k_j = K_j x_j and v_j = V_j x_j; with `composite` keys and values of all features come of all of them,
    [k_1 | ... | k_N] = R L [x_1 | ... | x_N] (Hiformer), L of `rank` rows, or of one whole matrix without a rank. Raises ValueError for padding and
    when heads do not divide, SizeError for another number of features.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        composite: bool = True,
        rank: Count | None = None,
        input_size: tuple[int, ...] = (4,),
    ):
        super().__init__()
        self.positions, self.composite = math.prod(input_size), composite
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        width = self.num_heads * self.head_dim
        self.q = PerPosition(self.positions, dim, width)
        if composite:
            self.k, self.v = (_joint(self.positions * dim, self.positions * width, rank) for _ in range(2))
        else:
            self.k, self.v = (PerPosition(self.positions, dim, width) for _ in range(2))
        self.proj = PerPosition(self.positions, width, dim)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums, and the maps of single features."""
        B, N, C = shape
        width = self.num_heads * self.head_dim
        maps = 2 if self.composite else 4
        return {"attention": 2 * B * N * N * width, "matmul": maps * B * N * C * width}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_others(x, ctx, self.positions)
        q = self.q(x)
        k, v = (part(x.flatten(1)).view(q.shape) if self.composite else part(x) for part in (self.k, self.v))
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)) for part in (q, k, v))
        y: Tensor = self.proj(attended(q, k, v, None, False, self.head_dim**-0.5).flatten(2))
        return y


@block("heterogeneous_mlp", kind="channel_mixer", layout="BLC", abilities=("noncausal", "1d"), paper="arXiv:2311.05884")
class HeterogeneousMlp(nn.Module):
    """y_i = W_i act(V_i x_i + v_i) + w_i: a perceptron of each position, `ratio` C wide. (B, N, C) -> (B, N, C)."""

    def __init__(
        self,
        dim: int,
        *,
        ratio: Annotated[float, Meta(gt=0)] = 4.0,
        act: Act | None = slot("gelu"),
        input_size: tuple[int, ...] = (4,),
    ):
        super().__init__()
        self.positions, hidden = math.prod(input_size), max(1, int(ratio * dim))
        self.fc1, self.fc2 = PerPosition(self.positions, dim, hidden), PerPosition(self.positions, hidden, dim)
        self.act = act(hidden) if act else None

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        return {"matmul": shape[0] * (self.fc1.weight.numel() + self.fc2.weight.numel())}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_others(x, ctx, self.positions)
        z = self.fc1(x)
        return self.fc2(z if self.act is None else run(self.act, z))


def refuse_others(x: Tensor, ctx: Context | None, positions: int) -> None:
    """Raises SizeError for another number of features, and ValueError for padding."""
    refuse_state(ctx, "which maps of single features cannot keep")
    if token_mask(x, ctx) is not None:
        raise ValueError("each feature has a map of its own here, so that none can be padding")
    if x.shape[1] != positions:
        raise SizeError(f"these maps are for {positions} features and meet {x.shape[1]}")


def _joint(dim: int, out_dim: int, rank: int | None) -> nn.Module:
    """A map of all features together, whole or of a rank."""
    if rank is None:
        return nn.Linear(dim, out_dim)
    return nn.Sequential(nn.Linear(dim, rank, bias=False), nn.Linear(rank, out_dim))
