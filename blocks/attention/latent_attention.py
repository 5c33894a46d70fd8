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
from blocks.attention.rotary import positions_after, rotated
from blocks.chain import run
from blocks.context import Context
from blocks.recurrent import Recurrent, State, unpacked
from blocks.registry import block
from blocks.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]


@block(
    "latent_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2405.04434",
)
class LatentAttention(Recurrent):
    """y = W_o concat_h softmax([q | R q_r] [k | R k_r]^T / sqrt(d + r)) v, [k | v] of all heads = W_b norm(c), [c | k_r] = W_a x.

    d is `head_dim`, r is `rope_dim`, the width of the part that is turned by positions and that all heads share among keys;
    c is `kv_rank` wide. Queries come the same way from `q_rank` numbers, or without a value from W_q x. (B, L, C) -> (B, L, C).
    The state holds norm(c) (B, M, kv_rank) and the turned k_r (B, M, rope_dim) of all tokens, and their number (B,); after
    padding also which of the M are tokens (B, M). Raises ValueError for an odd `rope_dim`.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count = 4,
        head_dim: Count = 32,
        rope_dim: Count = 16,
        value_dim: Count | None = None,
        kv_rank: Count = 64,
        q_rank: Count | None = None,
        rope_base: Positive = 10000.0,
        bias: bool = False,
        eps: Positive = 1e-6,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        if rope_dim % 2:
            raise ValueError(f"rope_dim {rope_dim} is odd: its channels are turned in pairs; {rope_dim + 1} would do")
        self.num_heads, self.head_dim, self.rope_dim, self.kv_rank = num_heads, head_dim, rope_dim, kv_rank
        self.value_dim, self.rope_base = value_dim or head_dim, rope_base
        queries = num_heads * (head_dim + rope_dim)
        self.q_proj = linear(dim, queries, bias=False) if q_rank is None else None
        self.q_a_proj = linear(dim, q_rank, bias=bias) if q_rank else None
        self.q_a_layernorm = nn.RMSNorm(q_rank, eps=eps) if q_rank else None
        self.q_b_proj = linear(q_rank, queries, bias=False) if q_rank else None
        self.kv_a_proj_with_mqa = linear(dim, kv_rank + rope_dim, bias=bias)
        self.kv_a_layernorm = nn.RMSNorm(kv_rank, eps=eps)
        self.kv_b_proj = linear(kv_rank, num_heads * (head_dim + self.value_dim), bias=False)
        self.o_proj = linear(num_heads * self.value_dim, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums: L^2 num_heads (head_dim + rope_dim + value_dim)."""
        B, L, _ = shape
        return {"attention": B * L * L * self.num_heads * (self.head_dim + self.rope_dim + self.value_dim)}

    def state_size(self, length: int = 0) -> int:
        return length * (self.kv_rank + self.rope_dim) + 1

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        where, after = positions_after(x, seen_before(state), mask)
        q, q_turned = self._queries(x).unflatten(-1, (self.num_heads, -1)).split([self.head_dim, self.rope_dim], -1)
        latent, k_turned = run(self.kv_a_proj_with_mqa, x).split([self.kv_rank, self.rope_dim], -1)
        k_turned = rotated(k_turned.unsqueeze(2), where, self.rope_base).squeeze(2)
        parts = self.kv_a_layernorm(latent), k_turned
        (latent, k_turned), visible, is_causal, state = look_back(parts, where, after, state, mask, None)
        k, v = (
            run(self.kv_b_proj, latent).unflatten(-1, (self.num_heads, -1)).split([self.head_dim, self.value_dim], -1)
        )
        y = F.scaled_dot_product_attention(
            torch.cat([q, rotated(q_turned, where, self.rope_base)], -1).transpose(1, 2),
            torch.cat([k, k_turned.unsqueeze(2).expand(-1, -1, self.num_heads, -1)], -1).transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=visible,
            is_causal=is_causal,
        )
        return run(self.o_proj, y.transpose(1, 2).flatten(2)), state

    def mix_packed(self, x: Tensor, state: State | None, borders: Tensor, ctx: Context) -> tuple[Tensor, State]:
        """As samples of different lengths, so that what is kept of them is one tensor."""
        rows, mask = unpacked(x, borders)
        y, state = self.mix(rows, state, mask, ctx)
        return y[mask].unsqueeze(0), state

    def _queries(self, x: Tensor) -> Tensor:
        if self.q_a_proj is None or self.q_b_proj is None or self.q_a_layernorm is None:
            return run(self.q_proj, x)  # type: ignore[arg-type]
        return run(self.q_b_proj, self.q_a_layernorm(run(self.q_a_proj, x)))
