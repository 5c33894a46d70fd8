"""DeltaNet: linear attention that replaces what its state holds for a key. Paper: arXiv:2406.06484.

Names of the state are those of fla-org/flash-linear-attention (MIT). H is here the number of heads, K and V the widths of
a key and a value, k the kernel of the short convolutions.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import check_divides
from blocks.chain import run
from blocks.context import Context
from blocks.ops.delta_rule import delta_rule
from blocks.recurrent import Recurrent, State, depthwise, gated_norm, short_conv, short_conv_macs, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]

LENGTH_EPS = 1e-6
"""Added to the square of the length by which queries and keys are divided."""


@block(
    "delta_net",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2406.06484",
    covers=("deltanet",),
)
class DeltaNet(Recurrent):
    """y = W_o norm_h(S_t^T q_t / sqrt(K)), S_t = S_{t-1} + beta_t k_t (v_t - S_{t-1}^T k_t)^T, beta = sigmoid(W_b x).

    q, k and v are silu(conv(W x)), q and k of length 1. (B, L, C) -> (B, L, C). Keys are `expand_k` C and values `expand_v` C
    wide over all heads. `neg_eigval` doubles beta, so that a component of the state may change its sign. With `gate`, outputs
    are multiplied by silu(W_g x). The state holds the last inputs of the convolutions (B, width, k - 1) of q, k and v and
    S (B, H, K, V). Raises ValueError when heads do not divide.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count = 4,
        expand_k: Positive = 1.0,
        expand_v: Positive = 1.0,
        kernel_size: Count = 4,
        gate: bool = False,
        neg_eigval: bool = False,
        bias: bool = False,
        eps: Positive = 1e-5,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.num_heads, self.neg_eigval = num_heads, neg_eigval
        keys, values = int(expand_k * dim), int(expand_v * dim)
        check_divides("num_heads", num_heads, "expand_k * dim", keys)
        check_divides("num_heads", num_heads, "expand_v * dim", values)
        self.head_dims = keys // num_heads, values // num_heads
        self.q_proj = linear(dim, keys, bias=bias)
        self.k_proj = linear(dim, keys, bias=bias)
        self.v_proj = linear(dim, values, bias=bias)
        self.b_proj = nn.Linear(dim, num_heads, bias=False)
        self.q_conv1d = depthwise(keys, kernel_size)
        self.k_conv1d = depthwise(keys, kernel_size)
        self.v_conv1d = depthwise(values, kernel_size)
        self.g_proj = linear(dim, values, bias=bias) if gate else None
        self.o_norm = nn.RMSNorm(values // num_heads, eps=eps)
        self.o_proj = linear(values, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Three convolutions, and 6 L num_heads K V operations of the delta rule."""
        B, L, _ = shape
        convolved = short_conv_macs(B, L, self.q_conv1d, self.k_conv1d, self.v_conv1d)
        return {"convolution": convolved, "scan": 6 * B * L * self.num_heads * math.prod(self.head_dims)}

    def state_size(self, length: int = 0) -> int:
        keys, values = self.head_dims
        conv_state = (2 * keys + values) * (self.q_conv1d.kernel_size[0] - 1)
        return self.num_heads * (conv_state + keys * values)

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        *inputs, S = state or (None,) * 4
        q, q_conv = short_conv(run(self.q_proj, x), self.q_conv1d, inputs[0], mask)
        k, k_conv = short_conv(run(self.k_proj, x), self.k_conv1d, inputs[1], mask)
        v, v_conv = short_conv(run(self.v_proj, x), self.v_conv1d, inputs[2], mask)
        q, k, v = (y.unflatten(-1, (self.num_heads, -1)) for y in (q, k, v))
        beta = self.b_proj(x).to(torch.promote_types(x.dtype, torch.float32)).sigmoid()
        y, S = delta_rule(
            of_length_one(q),
            of_length_one(k),
            v,
            zero_padding(beta * 2 if self.neg_eigval else beta, mask),
            scale=q.shape[-1] ** -0.5,
            initial_state=S,
            return_final_state=True,
        )
        gate = None if self.g_proj is None else run(self.g_proj, x).unflatten(-1, (self.num_heads, -1))
        y = gated_norm(y, gate, self.o_norm)
        return run(self.o_proj, y.flatten(2).to(x.dtype)), (q_conv, k_conv, v_conv, S)


def of_length_one(x: Tensor) -> Tensor:
    """x / |x|, in float32 at least."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + LENGTH_EPS)
