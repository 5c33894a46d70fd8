"""Softmax attention whose rotary positions are rows and columns. Papers: arXiv:2104.09864, arXiv:2303.11331 (two axes)."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import split_heads
from blocks.attention.rotary import Rope, rotated
from blocks.attention.scores import attended
from blocks.chain import as_stream, as_tokens, run
from blocks.context import Context
from blocks.registry import block
from blocks.registry.slots import Linear, Norm, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "grid_attention",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2303.11331",
    covers=("rope_2d",),
)
class GridAttention(nn.Module):
    """y = W_o concat_h softmax(q_h k_h^T / sqrt(head_dim)) v_h: queries and keys are turned by their rows in the first half of a head, by columns in the second.

    (B, C, H, W) -> (B, C, H, W). Neighbouring channels 2 i, 2 i + 1 of a half of d channels make a pair, turned by theta^(-2 i / d) at every step.
    `qk_norm` norms each query and key. Raises ValueError when heads do not divide, or are no two halves of pairs.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        theta: Annotated[float, Meta(gt=0)] = 10000.0,
        bias: bool = False,
        qk_norm: Norm | None = None,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        if self.head_dim % 4:
            raise ValueError(
                f"rows and columns turn pairs of half a head each: {self.head_dim} channels are no whole pairs"
            )
        width = self.num_heads * self.head_dim
        self.rope = Rope(theta, pairs="neighbours")
        self.qkv = linear(dim, 3 * width, bias=bias)
        self.q_norm = qk_norm(self.head_dim) if qk_norm else None
        self.k_norm = qk_norm(self.head_dim) if qk_norm else None
        self.proj = linear(width, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums: 2 L^2 num_heads head_dim."""
        B, _, H, W = shape
        return {"attention": 2 * B * (H * W) ** 2 * self.num_heads * self.head_dim}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        tokens = as_tokens(x)
        qkv = run(self.qkv, tokens, ctx).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.unbind(2)
        q, k = self._turned(_normed(self.q_norm, q, ctx), x), self._turned(_normed(self.k_norm, k, ctx), x)
        y = attended(q, k, v, None, False, self.head_dim**-0.5, None, 0.0, 1)
        return as_stream(run(self.proj, y.flatten(2), ctx), x)

    def _turned(self, heads: Tensor, image: Tensor) -> Tensor:
        H, W = image.shape[2:]
        rows = torch.arange(H, device=image.device).repeat_interleave(W)
        columns = torch.arange(W, device=image.device).repeat(H)
        above, below = heads.chunk(2, -1)
        return torch.cat([rotated(above, rows[None], self.rope), rotated(below, columns[None], self.rope)], -1)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.proj.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.qkv.absorb_input(scale, shift))  # type: ignore[operator]


def _normed(norm: nn.Module | None, x: Tensor, ctx: Context | None) -> Tensor:
    """Each head's query or key normed by itself: to the norm, heads are tokens."""
    return x if norm is None else run(norm, x.flatten(1, 2), ctx).view(x.shape)
