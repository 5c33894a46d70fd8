"""Multi-head latent attention: keys and values of all heads are made from one short vector per token, which is what is kept.

Paper: arXiv:2405.04434 (DeepSeek-V2). Names of the state are those of its public checkpoints.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.cache import look_back, seen_before
from blocks.attention.rotary import Rope, check_rope, magnitude, positions_after, rotated
from blocks.chain import run
from blocks.context import Context
from blocks.ops.masks import refuse_state, token_mask
from blocks.recurrent import State, samples, stepwise
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]


@block(
    "latent_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "noncausal", "step", "any_resolution", "1d"),
    paper="arXiv:2405.04434",
    covers=("multi_head_latent_attention", "mla"),
)
class LatentAttention(nn.Module):
    """y = W_o concat_h softmax([q | R q_r] [k | R k_r]^T / sqrt(d + r)) v, [k | v] of all heads = W_b norm(c), [c | k_r] = W_a x.

    d is `nope_dim`, r is `rope_dim`, the width of the part that is turned by positions and that all heads share among keys; v is
    `v_dim` wide, d without a value, and c is `kv_rank` wide. Queries come the same way from `q_rank` numbers, or without a value from W_q x. (B, L, C) -> (B, L, C).
    The state holds norm(c) (B, M, kv_rank) and the turned k_r (B, M, rope_dim) of all tokens, and their number (B,); after
    padding also which of the M are tokens (B, M). Under yarn scores are multiplied by m(mscale_all_dim)^2 and what is turned, of
    queries and of keys, by m(mscale) / m(mscale_all_dim), which is 1 without a `mscale_all_dim` of its own. Raises ValueError
    for rotary positions that do not fit, and for a state or packed sequences where `causal` is false.
    """

    path = ""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count = 4,
        nope_dim: Count = 32,
        rope_dim: Count = 16,
        v_dim: Count | None = None,
        kv_rank: Count = 64,
        q_rank: Count | None = None,
        causal: bool = True,
        rope: Rope | None = None,
        bias: bool = False,
        eps: Positive = 1e-6,
        linear: Linear = slot("dense"),
        mscale_all_dim: Annotated[Annotated[float, Meta(ge=0)] | None, Meta(extra_json_schema={"added": "0.1"})] = None,
    ):
        super().__init__()
        self.rope, self.causal = rope or Rope(), causal
        check_rope(self.rope, rope_dim)
        self.num_heads, self.nope_dim, self.rope_dim, self.kv_rank = num_heads, nope_dim, rope_dim, kv_rank
        self.v_dim = v_dim or nope_dim
        overall = magnitude(self.rope, self.rope.mscale if mscale_all_dim is None else mscale_all_dim)
        self.scale = (nope_dim + rope_dim) ** -0.5 * overall**2
        self.stretch = magnitude(self.rope, self.rope.mscale) / overall
        queries = num_heads * (nope_dim + rope_dim)
        self.q_proj = linear(dim, queries, bias=False) if q_rank is None else None
        self.q_a_proj = linear(dim, q_rank, bias=bias) if q_rank else None
        self.q_a_layernorm = nn.RMSNorm(q_rank, eps=eps) if q_rank else None
        self.q_b_proj = linear(q_rank, queries, bias=False) if q_rank else None
        self.kv_a_proj_with_mqa = linear(dim, kv_rank + rope_dim, bias=bias)
        self.kv_a_layernorm = nn.RMSNorm(kv_rank, eps=eps)
        self.kv_b_proj = linear(kv_rank, num_heads * (nope_dim + self.v_dim), bias=False)
        self.o_proj = linear(num_heads * self.v_dim, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums: L^2 num_heads (nope_dim + rope_dim + v_dim)."""
        B, L, _ = shape
        return {"attention": B * L * L * self.num_heads * (self.nope_dim + self.rope_dim + self.v_dim)}

    def state_size(self, length: int = 0) -> int:
        return length * (self.kv_rank + self.rope_dim) + 1

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if self.causal:
            return stepwise(self.mix, self.mix_packed, self.path, x, ctx)
        refuse_state(ctx, "that needs a latent_attention with `causal`")
        where, _ = positions_after(x, None, None)
        mask = token_mask(x, ctx)
        return self._attend(x, where, self._kept(x, where), None if mask is None else mask[:, None, None, :], False)

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        where, after = positions_after(x, seen_before(state), mask)
        kept, visible, is_causal, state = look_back(self._kept(x, where), where, after, state, mask, None)
        return self._attend(x, where, kept, visible, is_causal), state

    def mix_packed(self, x: Tensor, state: State | None, borders: Tensor, ctx: Context) -> tuple[Tensor, State]:
        return samples(self.mix, x, state, borders, ctx)

    def _kept(self, x: Tensor, where: Tensor) -> tuple[Tensor, ...]:
        """norm(c) (B, L, kv_rank) and the turned k_r (B, L, rope_dim)."""
        latent, turned = run(self.kv_a_proj_with_mqa, x).split([self.kv_rank, self.rope_dim], -1)
        return self.kv_a_layernorm(latent), rotated(turned.unsqueeze(2), where, self.rope, self.stretch).squeeze(2)

    def _attend(
        self, x: Tensor, where: Tensor, kept: tuple[Tensor, ...], visible: Tensor | None, is_causal: bool
    ) -> Tensor:
        q, q_turned = self._queries(x).unflatten(-1, (self.num_heads, -1)).split([self.nope_dim, self.rope_dim], -1)
        latent, k_turned = kept
        k, v = run(self.kv_b_proj, latent).unflatten(-1, (self.num_heads, -1)).split([self.nope_dim, self.v_dim], -1)
        y = F.scaled_dot_product_attention(
            torch.cat([q, rotated(q_turned, where, self.rope, self.stretch)], -1).transpose(1, 2),
            torch.cat([k, k_turned.unsqueeze(2).expand(-1, -1, self.num_heads, -1)], -1).transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=visible,
            is_causal=is_causal,
            scale=self.scale,
        )
        return run(self.o_proj, y.transpose(1, 2).flatten(2))

    def _queries(self, x: Tensor) -> Tensor:
        if self.q_a_proj is None or self.q_b_proj is None or self.q_a_layernorm is None:
            return run(self.q_proj, x)  # type: ignore[arg-type]
        return run(self.q_b_proj, self.q_a_layernorm(run(self.q_a_proj, x)))
