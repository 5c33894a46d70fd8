"""Attention in which queries compete for what there is to see. Paper: arXiv:2006.15055 (Slot Attention)."""

from __future__ import annotations

import math
from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import check_divides, split_heads
from blocks.chain import as_stream, as_tokens
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]


@block(
    "compete",
    kind="merge",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2006.15055",
    covers=("slot_attention",),
)
class Compete(nn.Module):
    """y_i = concat_h sum_j s_ij v_j / sum_j s_ij, s_ij = softmax_i(q_i k_j^T / sqrt(head_dim)) + eps: each key is shared out among the queries.

    q (B, L, C), k and v (B, M, C), or images -> the shape of q; without v the keys are values, too. Raises ValueError when heads do not
    divide, and for queries and keys of several widths.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        eps: Annotated[float, Meta(gt=0)] = 1e-6,
    ):
        super().__init__()
        if len(dims) not in (2, 3) or dims[0] != dims[1]:
            raise ValueError(f"queries, keys and values are needed; there are widths {dims}")
        self.num_heads, self.head_dim = split_heads(dims[0], num_heads, head_dim)
        check_divides("num_heads", self.num_heads, "the width of values", dims[-1])
        self.out_dim, self.eps = dims[-1], eps

    def macs(self, shape: tuple[int, ...], keys: tuple[int, ...], *values: Any) -> dict[str, int]:
        """Scores and sums: L M (C + C_v) for L queries and M keys."""
        lengths = [math.prod(each[2:]) if len(each) == 4 else each[1] for each in (shape, keys)]
        width = shape[1] if len(shape) == 4 else shape[2]
        return {"matmul": shape[0] * math.prod(lengths) * (width + self.out_dim)}

    def forward(self, q: Tensor, k: Tensor, v: Tensor | None = None) -> Tensor:
        queries, keys, values = (self._heads(x) for x in (q, k, k if v is None else v))
        shares = (queries * self.head_dim**-0.5 @ keys.transpose(-2, -1)).softmax(-2) + self.eps
        y = shares / shares.sum(-1, keepdim=True) @ values
        return as_stream(y.transpose(1, 2).flatten(2), q)

    def _heads(self, x: Tensor) -> Tensor:
        return as_tokens(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
