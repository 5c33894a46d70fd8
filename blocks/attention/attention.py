"""Softmax attention with heads, grouped keys, a causal and a cross form. Papers: arXiv:1706.03762, arXiv:2305.13245."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import check_divides, split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.ops.masks import refuse_state, token_mask
from blocks.registry import block
from blocks.slots import Linear, Norm, slot

Count = Annotated[int, Meta(ge=1)]
Drop = Annotated[float, Meta(ge=0, lt=1, extra_json_schema={"added": "0.1"})]


@block(
    "attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "noncausal", "cross", "any_resolution"),
    paper="arXiv:1706.03762",
)
class Attention(nn.Module):
    """y = W_o concat_h softmax(q_h k_h^T / sqrt(head_dim)) v_h, with [q | k | v] = W_qkv x.

    (B, L, C) -> (B, L, C). Of `num_heads` and `head_dim` one decides, both may; with neither, heads are 32 wide.
    `num_kv_heads` keys and values are each shared by num_heads / num_kv_heads neighbouring heads. `causal`: position t
    sees those up to t. `cross`: keys and values come from `ctx.memory` (B, M, C). `qk_norm` norms each query and key.
    `bias` holds for the first maps, and for W_o unless `out_bias` says otherwise. `ctx.mask` hides padding. In training
    `attn_drop` of the weights and `proj_drop` of the outputs are dropped.
    Raises ValueError when heads do not divide, for `causal` with `cross`, without a memory to look at, for packed
    sequences, and for a state to continue.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        num_kv_heads: Count | None = None,
        causal: bool = False,
        cross: bool = False,
        bias: bool = False,
        out_bias: bool | None = None,
        qk_norm: Norm | None = None,
        linear: Linear = slot("dense"),
        attn_drop: Drop = 0.0,
        proj_drop: Drop = 0.0,
    ):
        super().__init__()
        self.attn_drop, self.proj_drop = attn_drop, proj_drop
        if causal and cross:
            raise ValueError("a causal attention looks at its own past and a cross attention at the memory; choose one")
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.num_kv_heads = num_kv_heads or self.num_heads
        check_divides("num_kv_heads", self.num_kv_heads, "num_heads", self.num_heads)
        self.causal, self.cross = causal, cross
        width, kv_width = self.num_heads * self.head_dim, 2 * self.num_kv_heads * self.head_dim
        if cross:
            self.q = linear(dim, width, bias=bias)
            self.kv = linear(dim, kv_width, bias=bias)
        else:
            self.qkv = linear(dim, width + kv_width, bias=bias)
        self.q_norm = qk_norm(self.head_dim) if qk_norm else None
        self.k_norm = qk_norm(self.head_dim) if qk_norm else None
        self.proj = linear(width, dim, bias=bias if out_bias is None else out_bias)

    def macs(self, shape: tuple[int, ...], ctx: Context | None = None) -> dict[str, int]:
        """Scores and sums: 2 L M num_heads head_dim, M the positions looked at."""
        B, L, _ = shape
        seen = ctx.memory.shape[1] if self.cross and ctx is not None and ctx.memory is not None else L
        return {"attention": 2 * B * L * seen * self.num_heads * self.head_dim}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "attention keeps no keys and values of earlier calls")
        q, k, v = self._queries_keys_values(x, ctx)
        mask = None if self.cross else self._visible(token_mask(x, ctx))
        y = F.scaled_dot_product_attention(
            self._normed(self.q_norm, q, ctx).transpose(1, 2),
            self._normed(self.k_norm, k, ctx).transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask,
            dropout_p=self.attn_drop if self.training else 0.0,
            is_causal=self.causal and mask is None,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )
        return F.dropout(run(self.proj, y.transpose(1, 2).flatten(2), ctx), self.proj_drop, self.training)

    def _queries_keys_values(self, x: Tensor, ctx: Context | None) -> tuple[Tensor, ...]:
        """q (B, L, num_heads, head_dim), k and v (B, L or M, num_kv_heads, head_dim)."""
        if not self.cross:
            qkv = run(self.qkv, x, ctx).unflatten(-1, (-1, self.head_dim))
            return qkv.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], 2)
        if ctx is None or ctx.memory is None:
            raise ValueError("a cross attention looks at ctx.memory (B, M, C), and there is none")
        q = run(self.q, x, ctx).unflatten(-1, (-1, self.head_dim))
        return q, *run(self.kv, ctx.memory, ctx).unflatten(-1, (-1, self.head_dim)).chunk(2, 2)

    def _visible(self, mask: Tensor | None) -> Tensor | None:
        """(B, 1, 1 or L, L), True where a query may look.

        Padding sees itself at least: a softmax of nothing is NaN in some kernels.
        """
        if mask is None:
            return None
        keys = mask[:, None, None, :]
        if not self.causal:
            return keys
        length = mask.shape[1]
        here = torch.ones(length, length, dtype=torch.bool, device=mask.device)
        return (keys & here.tril()) | torch.eye(length, dtype=torch.bool, device=mask.device)

    def _normed(self, norm: nn.Module | None, x: Tensor, ctx: Context | None) -> Tensor:
        """Each head's query or key normed by itself: to the norm, heads are tokens."""
        return x if norm is None else run(norm, x.flatten(1, 2), ctx).view(x.shape)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.proj.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        first = self.q if self.cross else self.qkv
        return bool(first.absorb_input(scale, shift))  # type: ignore[operator]
