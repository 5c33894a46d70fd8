"""Retention (RetNet): linear attention whose heads forget at fixed rates. Paper: arXiv:2307.08621.

Names of the state are those of fla-org/flash-linear-attention (MIT). H is here the number of heads, K and V the widths of
a key and a value. Differs from the paper: rotations without xPos, as in the public implementation.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import check_divides
from blocks.attention.rotary import Rope, positions_after, rotated
from blocks.chain import run
from blocks.context import Context
from blocks.ops.linear_recurrence import linear_recurrence
from blocks.recurrent import Recurrent, State, gated_norm, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]
Ratio = Annotated[float, Meta(gt=0)]

FIRST_RATE = 5
"""Head h forgets 2^-(5 + h) of its state at every step."""


@block(
    "retention",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2307.08621",
    covers=("retnet", "multi_scale_retention"),
)
class Retention(Recurrent):
    """y = W_o (norm_h(S_t^T q_t / sqrt(K)) silu(W_g x)), S_t = (1 - 2^(-5-h)) S_{t-1} + k_t v_t^T, q and k rotated by position.

    (B, L, C) -> (B, L, C). Keys are `expand_k` C and values `expand_v` C wide over all heads; each head is normed by itself.
    The state holds S (B, H, K, V) and the number of tokens so far (B,). Raises ValueError when heads do not divide.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count = 4,
        expand_k: Ratio = 1.0,
        expand_v: Ratio = 2.0,
        theta: Ratio = 10000.0,
        bias: bool = False,
        eps: Ratio = 1e-5,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.num_heads, self.rope = num_heads, Rope(theta=theta)
        keys, values = int(expand_k * dim), int(expand_v * dim)
        check_divides("2 * num_heads", 2 * num_heads, "expand_k * dim", keys)
        check_divides("num_heads", num_heads, "expand_v * dim", values)
        self.head_dims = keys // num_heads, values // num_heads
        self.q_proj = linear(dim, keys, bias=bias)
        self.k_proj = linear(dim, keys, bias=bias)
        self.v_proj = linear(dim, values, bias=bias)
        self.g_proj = linear(dim, values, bias=bias)
        self.g_norm_swish_gate = nn.RMSNorm(values // num_heads, eps=eps)
        self.o_proj = linear(values, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """5 L num_heads K V operations: writing the state, reading it, and its decay."""
        B, L, _ = shape
        return {"scan": 5 * B * L * self.num_heads * math.prod(self.head_dims)}

    def state_size(self, length: int = 0) -> int:
        keys, values = self.head_dims
        return self.num_heads * keys * values + 1

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        S, position = state or (None, None)
        q, k, v = (run(p, x).unflatten(-1, (self.num_heads, -1)) for p in (self.q_proj, self.k_proj, self.v_proj))
        where, position = positions_after(x, position, mask)
        q, k = rotated(q, where, self.rope), rotated(k, where, self.rope)
        rate = 2.0 ** -torch.arange(FIRST_RATE, FIRST_RATE + self.num_heads, device=x.device, dtype=torch.float64)
        log_decay = torch.log1p(-rate).to(torch.promote_types(x.dtype, torch.float32)).expand(*x.shape[:2], -1)
        y, S = linear_recurrence(
            q,
            zero_padding(k, mask),
            v,
            zero_padding(log_decay, mask),
            scale=q.shape[-1] ** -0.5,
            initial_state=S,
            return_final_state=True,
        )
        gate = run(self.g_proj, x).unflatten(-1, (self.num_heads, -1))
        y = gated_norm(y, gate, self.g_norm_swish_gate)
        return run(self.o_proj, y.flatten(2).to(x.dtype)), (S, position)
