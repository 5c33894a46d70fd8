"""Attention by two softmaxes, of queries over channels and of keys over tokens. Paper: arXiv:1812.01243 (Efficient Attention)."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.ops.masks import refuse_state, token_mask
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "efficient_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:1812.01243",
)
class EfficientAttention(nn.Module):
    """y = W_o concat_h softmax_C(q_h) (softmax_L(k_h)^T v_h) / sqrt(head_dim), [q | k | v] = W_qkv x: softmax over channels, and over tokens.

    (B, L, C) -> (B, L, C), at a cost linear in L. `ctx.mask` keeps padding out of the second softmax. Raises ValueError when heads do not
    divide.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        bias: bool = False,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        width = self.num_heads * self.head_dim
        self.qkv = linear(dim, 3 * width, bias=bias)
        self.proj = linear(width, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """k^T v, and q with it."""
        return {"matmul": 2 * shape[0] * shape[1] * self.num_heads * self.head_dim**2}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "a softmax over all tokens has no past")
        mask = token_mask(x, ctx)
        q, k, v = run(self.qkv, x, ctx).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if mask is not None:
            k = k.masked_fill(~mask[:, None, :, None], torch.finfo(k.dtype).min)
        return run(self.proj, two_softmaxes(q, k, v).transpose(1, 2).flatten(2), ctx)


def two_softmaxes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax over the channels of q, divided by sqrt(K), times what softmax over the tokens of k gathers of v: all (B, H, L, K)."""
    return q.softmax(-1) * q.shape[-1] ** -0.5 @ (k.softmax(-2).mT @ v)
