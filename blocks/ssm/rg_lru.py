"""The recurrent block of Griffin: a gated branch of a short convolution and a linear recurrence per channel. Paper: arXiv:2402.19427.

Names of the state are those of RecurrentGemma's public checkpoints. W = `width` is here the inner width, H the number of blocks of
the gates' maps, k the kernel of the convolution.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import check_divides
from blocks.attention.rotary import positions_after
from blocks.chain import run
from blocks.context import Context
from blocks.ops.linear_recurrence import channel_recurrence
from blocks.recurrent import Recurrent, State, depthwise, short_conv, short_conv_macs, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]

SHARPNESS = 8.0
"""c of the paper: a is a power of it."""
RADIUS_RANGE = (0.9, 0.999)
"""a at the start of training where the gate is open, drawn evenly in its square."""


class RealGatedUnit(nn.Module):
    """The parameters of the RG-LRU: gates with block-diagonal maps, and the rates Lambda of the decays."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        block = width // num_heads
        self.recurrent_param = nn.Parameter(torch.empty(width))
        self.input_gate_weight = nn.Parameter(torch.empty(num_heads, block, block))
        self.input_gate_bias = nn.Parameter(torch.empty(num_heads, block))
        self.recurrent_gate_weight = nn.Parameter(torch.empty(num_heads, block, block))
        self.recurrent_gate_bias = nn.Parameter(torch.empty(num_heads, block))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """exp(-c softplus(Lambda)) is a of an open gate."""
        low, high = (radius**2 for radius in RADIUS_RANGE)
        square = torch.empty_like(self.recurrent_param).uniform_(low, high)
        self.recurrent_param.copy_(torch.log(torch.expm1(-square.log() / (2 * SHARPNESS))))
        for weight in (self.input_gate_weight, self.recurrent_gate_weight):
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
        for bias in (self.input_gate_bias, self.recurrent_gate_bias):
            nn.init.zeros_(bias)

    def gates(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(i, log a) of u (B, L, W), in its dtype or float32 at least."""
        wide = torch.promote_types(u.dtype, torch.float32)
        by_block = u.to(wide).unflatten(-1, (len(self.input_gate_bias), -1))
        maps = (self.input_gate_weight, self.input_gate_bias), (self.recurrent_gate_weight, self.recurrent_gate_bias)
        i, r = (
            (torch.einsum("blhp,hpq->blhq", by_block, weight.to(wide)) + bias.to(wide)).flatten(2).sigmoid()
            for weight, bias in maps
        )
        return i, -SHARPNESS * F.softplus(self.recurrent_param.to(wide)) * r


@block(
    "rg_lru",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2402.19427",
    covers=("griffin", "hawk", "real_gated_linear_recurrent_unit", "recurrent_gemma"),
)
class RgLru(Recurrent):
    """y = W_o(gelu(W_y x) * h), h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t * u_t), u = conv(W_x x).

    i = sigmoid(W_i u + b_i), a = exp(-8 softplus(Lambda) sigmoid(W_a u + b_a)), W_i and W_a block-diagonal with `num_heads` blocks.
    (B, L, C) -> (B, L, C). The first token of a sequence enters with factor 1 in the place of sqrt(1 - a^2), as in the code of
    RecurrentGemma. The inner width is `width`, or C without one. gelu is the one by tanh. The state holds the last inputs of the
    convolution (B, W, k - 1), h (B, W) and the number of tokens (B,). Raises ValueError when heads do not divide the width.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count = 4,
        width: Count | None = None,
        kernel_size: Count = 4,
        bias: bool = True,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.width, self.num_heads = width or dim, num_heads
        check_divides("num_heads", num_heads, "the width", self.width)
        self.linear_x = linear(dim, self.width, bias=bias)
        self.linear_y = linear(dim, self.width, bias=bias)
        self.conv_1d = depthwise(self.width, kernel_size, bias=True)
        self.rg_lru = RealGatedUnit(self.width, num_heads)
        self.linear_out = linear(self.width, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The convolution, the gates' maps of 2 W^2 / H weights, and 5 L W operations of the recurrence."""
        B, L, _ = shape
        return {
            "convolution": short_conv_macs(B, L, self.conv_1d),
            "matmul": 2 * B * L * self.width**2 // self.num_heads,
            "scan": 5 * B * L * self.width,
        }

    def state_size(self, length: int = 0) -> int:
        return self.width * self.conv_1d.kernel_size[0] + 1

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        conv, h, seen = state or (None, None, None)
        u, conv = short_conv(run(self.linear_x, x), self.conv_1d, conv, mask, act=None)
        where, after = positions_after(x, seen, mask)
        i, log_decay = self.rg_lru.gates(u)
        factor = torch.sqrt(-torch.expm1(2 * log_decay)).masked_fill((where == 0).unsqueeze(-1), 1.0)
        written = zero_padding(factor * i * u.to(i.dtype), mask)
        y, h = channel_recurrence(written, zero_padding(log_decay, mask), h, self.num_heads)
        y = F.gelu(run(self.linear_y, x), approximate="tanh") * y.to(x.dtype)
        return run(self.linear_out, y), (conv, h, after)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.linear_out.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.linear_x.absorb_input(scale, shift) and self.linear_y.absorb_input(scale, shift))  # type: ignore[operator]
