"""Attention of a group of tokens to the group that belongs to it in another stream, of another width. Paper: arXiv:2305.12689 (FIT)."""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import split_heads
from blocks.attention.scores import attended
from blocks.chain import as_stream, as_tokens
from blocks.primitives.groups import cut_groups
from blocks.primitives.linears import Dense
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]


@block(
    "grouped_attend",
    kind="merge",
    layout="BLC",
    abilities=("noncausal",),
    paper="arXiv:2305.12689",
    covers=("fit_read", "fit_write"),
)
class GroupedAttend(nn.Module):
    """y = W_o concat_h softmax(q_h k_h^T / sqrt(head_dim)) v_h within each group: q = W_q x, k = W_k z, v = W_v z.

    x (B, groups L, C), and z (B, groups M, D), or images -> the shape of x: the i-th `groups`-th of x looks at the i-th of z. Heads share the
    smaller of the two widths, or `width`. Raises ValueError when heads or groups do not divide.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        *,
        groups: Count = 1,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        width: Count | None = None,
        bias: bool = True,
    ):
        super().__init__()
        if len(dims) != 2:
            raise ValueError(f"a stream and what it looks at are needed; there are {len(dims)} tensors")
        dim, seen = dims
        self.out_dim, self.groups = dim, groups
        self.num_heads, self.head_dim = split_heads(width or min(dims), num_heads, head_dim)
        inner = self.num_heads * self.head_dim
        self.q = Dense(dim, inner, bias=bias)
        self.k = Dense(seen, inner, bias=bias)
        self.v = Dense(seen, inner, bias=bias)
        self.proj = Dense(inner, dim, bias=bias)

    def macs(self, shape: tuple[int, ...], seen: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums: 2 L M inner in each group."""
        L, M = (math.prod(size[2:]) if len(size) == 4 else size[1] for size in (shape, seen))
        return {"attention": 2 * shape[0] * L * M // self.groups * self.num_heads * self.head_dim}

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        tokens, seen = as_tokens(x), as_tokens(z)
        if tokens.shape[1] % self.groups or seen.shape[1] % self.groups:
            raise ValueError(
                f"{tokens.shape[1]} and {seen.shape[1]} tokens do not both make {self.groups} equal groups"
            )
        q, k, v = (
            cut_groups(part, self.groups).unflatten(-1, (self.num_heads, self.head_dim))
            for part in (self.q(tokens), self.k(seen), self.v(seen))
        )
        y = attended(q, k, v, None, False, self.head_dim**-0.5).flatten(2)
        return as_stream(self.proj(y.reshape(*tokens.shape[:2], y.shape[-1])), x)
