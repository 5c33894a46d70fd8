"""Kimi delta attention: the gated delta rule with a decay for every channel of the keys. Paper: arXiv:2510.26692.

Names of the state are those of fla-org/flash-linear-attention (MIT). H is here the number of heads, K and V the widths of a key and
a value, k the kernel of the short convolutions.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
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
    "kimi_delta_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2510.26692",
    covers=("kda", "kimi_linear"),
)
class KimiDeltaAttention(Recurrent):
    """y = W_o (norm_h(S_t^T q_t / sqrt(K)) sigmoid(W_g2 W_g1 x + b)), S' = diag(a_t) S_{t-1}, S_t = S' + beta_t k_t (v_t - S'^T k_t)^T.

    a = exp(-exp(A_log) softplus(W_f2 W_f1 x + dt_bias)) for each channel of the keys, A_log for each head; beta = sigmoid(W_b x),
    doubled with `neg_eigval`; q, k and v are silu(conv(W x)), q and k of length 1. (B, L, C) -> (B, L, C). A value is `expand_v` keys
    wide; W_f1 and W_g1 give V numbers. The state holds the last inputs of the convolutions (B, width, k - 1) of q, k and v and S
    (B, H, K, V). Raises ValueError when heads do not divide.
    """

    no_decay = ("A_log", "dt_bias")

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        expand_v: Positive = 1.0,
        kernel_size: Count = 4,
        neg_eigval: bool = False,
        eps: Positive = 1e-5,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.neg_eigval, self.value_dim = neg_eigval, int(expand_v * self.head_dim)
        keys, values = self.num_heads * self.head_dim, self.num_heads * self.value_dim
        self.q_proj = linear(dim, keys, bias=False)
        self.k_proj = linear(dim, keys, bias=False)
        self.v_proj = linear(dim, values, bias=False)
        self.q_conv1d = depthwise(keys, kernel_size)
        self.k_conv1d = depthwise(keys, kernel_size)
        self.v_conv1d = depthwise(values, kernel_size)
        self.f_proj = nn.Sequential(
            nn.Linear(dim, self.value_dim, bias=False), nn.Linear(self.value_dim, keys, bias=False)
        )
        self.b_proj = nn.Linear(dim, self.num_heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(self.num_heads))
        self.dt_bias = nn.Parameter(torch.empty(keys))
        self.g_proj = nn.Sequential(nn.Linear(dim, self.value_dim, bias=False), nn.Linear(self.value_dim, values))
        self.o_norm = nn.RMSNorm(self.value_dim, eps=eps)
        self.o_proj = linear(values, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_rates(self.dt_bias, self.A_log)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Three convolutions, and 7 L num_heads K V operations of the decayed delta rule."""
        B, L, _ = shape
        convolved = short_conv_macs(B, L, self.q_conv1d, self.k_conv1d, self.v_conv1d)
        return {"convolution": convolved, "scan": 7 * B * L * self.num_heads * self.head_dim * self.value_dim}

    def state_size(self, length: int = 0) -> int:
        widths = self.num_heads * (2 * self.head_dim + self.value_dim)
        return widths * (self.q_conv1d.kernel_size[0] - 1) + self.num_heads * self.head_dim * self.value_dim

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        *inputs, S = state or (None,) * 4
        q, q_conv = short_conv(run(self.q_proj, x), self.q_conv1d, inputs[0], mask)
        k, k_conv = short_conv(run(self.k_proj, x), self.k_conv1d, inputs[1], mask)
        v, v_conv = short_conv(run(self.v_proj, x), self.v_conv1d, inputs[2], mask)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)) for part in (q, k, v))
        wide = torch.promote_types(x.dtype, torch.float32)
        beta = self.b_proj(x).to(wide).sigmoid()
        step = F.softplus(self.f_proj(x).to(wide) + self.dt_bias.to(wide)).unflatten(-1, (self.num_heads, -1))
        y, S = delta_rule(
            of_length_one(q),
            of_length_one(k),
            v,
            zero_padding(beta * 2 if self.neg_eigval else beta, mask),
            zero_padding(-torch.exp(self.A_log.to(wide)).unsqueeze(-1) * step, mask),
            scale=self.head_dim**-0.5,
            initial_state=S,
            return_final_state=True,
        )
        gate = self.g_proj(x).unflatten(-1, (self.num_heads, -1)).to(wide).sigmoid()
        y = gated_norm(y, None, self.o_norm) * gate
        return run(self.o_proj, y.flatten(2).to(x.dtype)), (q_conv, k_conv, v_conv, S)
