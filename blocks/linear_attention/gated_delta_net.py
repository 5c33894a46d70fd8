"""Gated DeltaNet: a state that forgets at a rate made from the token, and of which what a key holds is replaced.

Paper: arXiv:2412.06464. Names of the state are those of fla-org/flash-linear-attention (MIT). H is here the number of heads,
K and V the widths of a key and a value, k the kernel of the short convolutions.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import check_divides, split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.linear_attention.delta_net import of_length_one
from blocks.ops.delta_rule import delta_rule
from blocks.recurrent import Recurrent, State, depthwise, gated_norm, short_conv, short_conv_macs, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot
from blocks.ssm.mamba2 import reset_rates

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]


@block(
    "gated_delta_net",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2412.06464",
    covers=("gated_deltanet",),
)
class GatedDeltaNet(Recurrent):
    """y = W_o (norm_h(S_t^T q_t / sqrt(K)) silu(W_g x)), S_t = a_t S_{t-1} + beta_t k_t (v_t - a_t S_{t-1}^T k_t)^T.

    a = exp(-exp(A_log) softplus(W_a x + dt_bias)), beta = sigmoid(W_b x), doubled with `neg_eigval`; q, k and v are
    silu(conv(W x)), q and k of length 1. (B, L, C) -> (B, L, C). A value is `expand_v` keys wide. `num_v_heads` heads of values
    share the `num_heads` of queries and keys in neighbouring groups; without a value there are as many. The state holds the
    last inputs of the convolutions (B, width, k - 1) of q, k and v and S (B, H, K, V). Raises ValueError when heads do not
    divide.
    """

    no_decay = ("A_log", "dt_bias")

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        num_v_heads: Count | None = None,
        expand_v: Positive = 2.0,
        kernel_size: Count = 4,
        neg_eigval: bool = False,
        bias: bool = False,
        eps: Positive = 1e-5,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.num_v_heads, self.neg_eigval = num_v_heads or self.num_heads, neg_eigval
        check_divides("num_heads", self.num_heads, "num_v_heads", self.num_v_heads)
        self.value_dim = int(expand_v * self.head_dim)
        keys, values = self.num_heads * self.head_dim, self.num_v_heads * self.value_dim
        self.q_proj = linear(dim, keys, bias=bias)
        self.k_proj = linear(dim, keys, bias=bias)
        self.v_proj = linear(dim, values, bias=bias)
        self.a_proj = nn.Linear(dim, self.num_v_heads, bias=False)
        self.b_proj = nn.Linear(dim, self.num_v_heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(self.num_v_heads))
        self.dt_bias = nn.Parameter(torch.empty(self.num_v_heads))
        self.q_conv1d = depthwise(keys, kernel_size)
        self.k_conv1d = depthwise(keys, kernel_size)
        self.v_conv1d = depthwise(values, kernel_size)
        self.g_proj = linear(dim, values, bias=bias)
        self.o_norm = nn.RMSNorm(self.value_dim, eps=eps)
        self.o_proj = linear(values, dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_rates(self.dt_bias, self.A_log)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Three convolutions, and 7 L num_v_heads K V operations of the decayed delta rule."""
        B, L, _ = shape
        convolved = short_conv_macs(B, L, self.q_conv1d, self.k_conv1d, self.v_conv1d)
        return {"convolution": convolved, "scan": 7 * B * L * self.num_v_heads * self.head_dim * self.value_dim}

    def state_size(self, length: int = 0) -> int:
        keys, values = self.num_heads * self.head_dim, self.num_v_heads * self.value_dim
        return (2 * keys + values) * (self.q_conv1d.kernel_size[0] - 1) + values * self.head_dim

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        *inputs, S = state or (None,) * 4
        q, q_conv = short_conv(run(self.q_proj, x), self.q_conv1d, inputs[0], mask)
        k, k_conv = short_conv(run(self.k_proj, x), self.k_conv1d, inputs[1], mask)
        v, v_conv = short_conv(run(self.v_proj, x), self.v_conv1d, inputs[2], mask)
        q, k = q.unflatten(-1, (-1, self.head_dim)), k.unflatten(-1, (-1, self.head_dim))
        wide = torch.promote_types(x.dtype, torch.float32)
        beta = self.b_proj(x).to(wide).sigmoid()
        rate = F.softplus(self.a_proj(x).to(wide) + self.dt_bias.to(wide))
        y, S = delta_rule(
            of_length_one(q),
            of_length_one(k),
            v.unflatten(-1, (-1, self.value_dim)),
            zero_padding(beta * 2 if self.neg_eigval else beta, mask),
            zero_padding(-torch.exp(self.A_log.to(wide)) * rate, mask),
            scale=self.head_dim**-0.5,
            initial_state=S,
            return_final_state=True,
        )
        gate = run(self.g_proj, x).unflatten(-1, (-1, self.value_dim))
        y = gated_norm(y, gate, self.o_norm)
        return run(self.o_proj, y.flatten(2).to(x.dtype)), (q_conv, k_conv, v_conv, S)
