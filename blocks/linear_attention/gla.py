"""Gated linear attention: a decay per channel of the keys, made from the token. Paper: arXiv:2312.06635.

Names of the state are those of fla-org/flash-linear-attention (MIT). H is here the number of heads, K and V the widths of
a key and a value.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import check_divides
from blocks.chain import run
from blocks.context import Context
from blocks.ops.linear_recurrence import linear_recurrence
from blocks.recurrent import Recurrent, State, gated_norm, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]


@block(
    "gla",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2312.06635",
    covers=("gated_linear_attention",),
)
class GatedLinearAttention(Recurrent):
    """y = W_o (norm_h(S_t^T q_t / sqrt(K)) silu(W_g x)), S_t = diag(a_t) S_{t-1} + k_t v_t^T, a = sigmoid(W_2 W_1 x + b)^(1 / 16).

    (B, L, C) -> (B, L, C). Keys are `expand_k` C and values `expand_v` C wide over all heads; W_1 gives `gate_rank` numbers, and
    the root of a is the `gate_root`-th. The state is S (B, H, K, V). Raises ValueError when heads do not divide.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count = 4,
        expand_k: Positive = 0.5,
        expand_v: Positive = 1.0,
        gate_rank: Count = 16,
        gate_root: Positive = 16.0,
        bias: bool = False,
        eps: Positive = 1e-5,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.num_heads, self.gate_root = num_heads, gate_root
        keys, values = int(expand_k * dim), int(expand_v * dim)
        check_divides("num_heads", num_heads, "expand_k * dim", keys)
        check_divides("num_heads", num_heads, "expand_v * dim", values)
        self.head_dims = keys // num_heads, values // num_heads
        self.q_proj = linear(dim, keys, bias=bias)
        self.k_proj = linear(dim, keys, bias=bias)
        self.v_proj = linear(dim, values, bias=bias)
        self.g_proj = linear(dim, values, bias=bias)
        self.gk_proj = nn.Sequential(nn.Linear(dim, gate_rank, bias=False), nn.Linear(gate_rank, keys))
        self.g_norm_swish_gate = nn.RMSNorm(values // num_heads, eps=eps)
        self.o_proj = linear(values, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """5 L num_heads K V operations: writing the state, reading it, and its decay."""
        B, L, _ = shape
        return {"scan": 5 * B * L * self.num_heads * math.prod(self.head_dims)}

    def state_size(self, length: int = 0) -> int:
        keys, values = self.head_dims
        return self.num_heads * keys * values

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        q, k, v = (run(p, x).unflatten(-1, (self.num_heads, -1)) for p in (self.q_proj, self.k_proj, self.v_proj))
        gate = self.gk_proj(x).to(torch.promote_types(x.dtype, torch.float32))
        log_decay = F.logsigmoid(gate).unflatten(-1, (self.num_heads, -1)) / self.gate_root
        y, S = linear_recurrence(
            q,
            zero_padding(k, mask),
            v,
            zero_padding(log_decay, mask),
            scale=q.shape[-1] ** -0.5,
            initial_state=None if state is None else state[0],
            return_final_state=True,
        )
        shown = run(self.g_proj, x).unflatten(-1, (self.num_heads, -1))
        y = gated_norm(y, shown, self.g_norm_swish_gate)
        return run(self.o_proj, y.flatten(2).to(x.dtype)), (S,)
