"""Attention without maps of its own, as merges: queries, keys and values come from nodes of a graph. Papers: arXiv:1706.03762, arXiv:2104.09864."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import check_divides, split_heads
from blocks.attention.rotary import Rope, check_rope, positions_after, rotated
from blocks.attention.scores import attended
from blocks.chain import as_stream, as_tokens, run
from blocks.context import Context
from blocks.ops.masks import token_mask
from blocks.registry import block
from blocks.registry.slots import Norm

Count = Annotated[int, Meta(ge=1)]


@block("attend", kind="merge", abilities=("noncausal", "any_resolution"), paper="arXiv:1706.03762")
class Attend(nn.Module):
    """y = concat_h softmax(q_h k_h^T / sqrt(head_dim)) v_h.

    q (B, L, C), k and v (B, M, C), or images -> the shape of q; without v the keys are values, too. A fourth tensor, a mask (B, M) that is
    True at real keys, may be there or None; then `ctx.mask` hides padding. `qk_norm` norms each query and key, `rope` turns them by their
    positions. With `causal` position t sees those up to t. Raises ValueError when heads do not divide, for queries and keys of several
    widths, and for rotary positions that do not fit.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        qk_norm: Norm | None = None,
        rope: Rope | None = None,
        causal: bool = False,
    ):
        super().__init__()
        if len(dims) not in (2, 3, 4) or dims[0] != dims[1]:
            raise ValueError(f"queries, keys and values, and a mask or none, are needed; there are widths {dims}")
        self.num_heads, self.head_dim = split_heads(dims[0], num_heads, head_dim)
        check_divides("num_heads", self.num_heads, "the width of values", dims[min(2, len(dims) - 1)])
        check_rope(rope, self.head_dim)
        self.out_dim, self.rope, self.causal = dims[min(2, len(dims) - 1)], rope, causal
        self.q_norm = qk_norm(self.head_dim) if qk_norm else None
        self.k_norm = qk_norm(self.head_dim) if qk_norm else None

    def macs(self, shape: tuple[int, ...], keys: tuple[int, ...], *others: Any) -> dict[str, int]:
        """Scores and sums: L M (C + C_v) for L queries and M keys."""
        lengths = [math.prod(each[2:]) if len(each) == 4 else each[1] for each in (shape, keys)]
        width = shape[1] if len(shape) == 4 else shape[2]
        return {"attention": shape[0] * math.prod(lengths) * (width + self.out_dim)}

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor | None = None, mask: Tensor | None = None, *, ctx: Context | None = None
    ) -> Tensor:
        queries, keys = self._heads(q, self.q_norm, ctx), self._heads(k, self.k_norm, ctx)
        values = as_tokens(k if v is None else v).unflatten(-1, (self.num_heads, -1))
        real = token_mask(as_tokens(k), ctx) if mask is None else mask
        visible = None if real is None else real[:, None, None, :]
        y = attended(queries, keys, values, visible, self.causal, self.head_dim**-0.5, None, 0.0, 1)
        return as_stream(y.flatten(2), q)

    def _heads(self, x: Tensor, norm: nn.Module | None, ctx: Context | None) -> Tensor:
        heads = as_tokens(x).unflatten(-1, (self.num_heads, self.head_dim))
        if norm is not None:  # to which heads are tokens
            heads = run(norm, heads.flatten(1, 2), ctx).view(heads.shape)
        return heads if self.rope is None else rotated(heads, positions_after(heads, None, None)[0], self.rope)


@block("turn_on_grid", kind="merge", abilities=("noncausal", "any_resolution", "2d"), paper="arXiv:2403.03206")
class TurnOnGrid(nn.Module):
    """Queries or keys turned by the rows and columns of an image: of each head `axes` = (at rest, by rows, by columns) channels, what is left at rest, too.

    x (B, L, C), and an image (B, D, H, W) whose pixels are the first H W of L tokens -> (B, L, C); tokens behind them, a text, are at
    position 0, and stay. Neighbouring channels make pairs; of an axis of d channels pair i is turned by theta^(-2 i / d). An x that is
    an image stays one. Raises ValueError for axes that are odd or more than a head.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        *,
        head_dim: Count = 64,
        axes: tuple[int, int, int] = (0, 32, 32),
        theta: Annotated[float, Meta(gt=0)] = 10000.0,
    ):
        super().__init__()
        if sum(axes) > head_dim or any(axis % 2 for axis in axes) or dims[0] % head_dim:
            raise ValueError(
                f"axes of {axes} channels, all even, are to fit into heads of {head_dim}, and these into {dims[0]}"
            )
        self.out_dim, self.head_dim, self.axes = dims[0], head_dim, axes
        self.rope = Rope(theta, pairs="neighbours")

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        H, W = image.shape[2:] if image.ndim == 4 else (1, image.shape[1])
        heads = as_tokens(x).unflatten(-1, (-1, self.head_dim))
        still, behind = heads[:, : H * W], heads[:, H * W :]
        places = torch.arange(H * W, device=x.device)
        rest, rows, columns = self.axes
        parts = still.split([rest, rows, columns, self.head_dim - sum(self.axes)], -1)
        turned = [
            parts[0],
            rotated(parts[1], (places // W)[None], self.rope),
            rotated(parts[2], (places % W)[None], self.rope),
            parts[3],
        ]
        return as_stream(torch.cat([torch.cat(turned, -1), behind], 1).flatten(2), x)
