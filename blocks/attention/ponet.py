"""PoNet: pooling over the whole sequence, over segments and over neighbours in the place of attention. Paper: arXiv:2110.02442."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.ops.masks import refuse_state, token_mask
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]

LOWEST = -10000.0
"""What padding counts in the maxima."""


@block(
    "ponet",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal", "any_resolution", "1d"),
    paper="arXiv:2110.02442",
    covers=("multi_granularity_pooling",),
)
class PoNet(nn.Module):
    """y = W_o ((v + max_segment s) o + max_3 l): v_h = softmax(g_h k_h^T / sqrt(d)) k_h of all tokens, g the mean of q.

    q, k, o, s and l are maps of x; the values are the keys. Segments hold L // `segments` + 1 neighbouring tokens, the maximum over
    neighbours is of a token and the one on each side. (B, L, C) -> (B, L, C), at a cost linear in L. `ctx.mask` keeps padding out of
    mean and softmax, counts it as -10000 in the maxima, and makes its outputs those of 0. Raises ValueError when heads do not divide.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        segments: Count = 5,
        bias: bool = True,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.segments = segments
        width = self.num_heads * self.head_dim
        self.query = linear(dim, width, bias=bias)
        self.key = linear(dim, width, bias=bias)
        self.output = linear(dim, width, bias=bias)
        self.segment = linear(dim, width, bias=bias)
        self.local = linear(dim, width, bias=bias)
        self.proj = linear(width, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums of one query for each head: 2 L width."""
        B, L, _ = shape
        return {"matmul": 2 * B * L * self.num_heads * self.head_dim}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "which pooling over the whole sequence cannot keep")
        mask = token_mask(x, ctx)
        q, k, o = (
            run(m, x, ctx).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for m in (self.query, self.key, self.output)
        )
        y = pooled(q, k, o, run(self.local, x, ctx), run(self.segment, x, ctx), self.segments, mask)
        return run(self.proj, y, ctx)


def pooled(
    q: Tensor, k: Tensor, o: Tensor, local: Tensor, segment: Tensor, segments: int, mask: Tensor | None = None
) -> Tensor:
    """(v + segment maximum) o + local maximum, heads joined: q, k, o (B, H, L, d), local and segment (B, L, H d), mask (B, L)."""
    L, real = k.shape[2], None if mask is None else mask[:, None, :, None]
    if real is not None:
        count = real.sum(2, keepdim=True).clamp_min(1)
        mean = q.masked_fill(~real, 0).sum(2, keepdim=True) / count
        local, segment = (part.masked_fill(~mask.unsqueeze(-1), LOWEST) for part in (local, segment))  # type: ignore[union-attr]
    else:
        mean = q.mean(2, keepdim=True)
    scores = (mean * k.shape[-1] ** -0.5) @ k.mT
    if real is not None:
        scores = scores.masked_fill(~real.transpose(-1, -2), torch.finfo(scores.dtype).min)
    value = scores.softmax(-1) @ k
    size = L // segments + 1
    filled = F.pad(segment, (0, 0, 0, -L % size), value=LOWEST).unflatten(1, (-1, size))
    highest = filled.amax(2, keepdim=True).expand_as(filled).flatten(1, 2)[:, :L]
    ahead, behind = (
        F.pad(local, (0, 0, 1, 0), value=-torch.inf)[:, :L],
        F.pad(local, (0, 0, 0, 1), value=-torch.inf)[:, 1:],
    )
    near = torch.maximum(torch.maximum(ahead, local), behind)
    heads = k.shape[1]
    y = (value + highest.unflatten(-1, (heads, -1)).transpose(1, 2)) * o
    y = y.transpose(1, 2).flatten(2) + near
    return y if mask is None else y.masked_fill(~mask.unsqueeze(-1), 0)
