"""The sequence mixer of Monarch Mixer: a gated long convolution to both sides. Paper: arXiv:2310.12109.

Upstream: HazyResearch/m2 (Apache-2.0). The channel mixer of the paper is an `mlp` with the linear `monarch`.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.linear_attention.hyena import ImplicitFilter, Odd
from blocks.ops.long_conv import long_conv, long_conv_flops
from blocks.ops.masks import refuse_state, token_mask
from blocks.recurrent import zero_padding
from blocks.registry import block
from blocks.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "monarch_mixer",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "noncausal", "any_resolution", "1d"),
    paper="arXiv:2310.12109",
)
class MonarchMixer(nn.Module):
    """y = W_o (x_2 (h * (x_1 v) + bias x_1 v)), [x_1 | x_2 | v] = DW(W_i u), * a convolution to both sides or causal.

    Kernels are as long as the sequence and made from positions, one for the past and, unless `causal`, one for the future.
    (B, L, C) -> (B, L, C) for L up to `max_length`. `ctx.mask` keeps padding out. Raises ValueError for longer sequences, an
    even `kernel_size` where not causal, and for a state or packed sequences.
    """

    filter_fn2: ImplicitFilter | None

    def __init__(
        self,
        dim: int,
        *,
        causal: bool = False,
        max_length: Count = 1024,
        filter_dim: Count = 64,
        position_dim: Odd = 5,
        kernel_size: Count = 3,
        bias: bool = True,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        if kernel_size % 2 == 0 and not causal:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        self.causal, self.max_length = causal, max_length
        self.in_linear = linear(dim, 3 * dim, bias=bias)
        self.short_filter = nn.Conv1d(3 * dim, 3 * dim, kernel_size, groups=3 * dim)
        self.filter_fn = ImplicitFilter(dim, max_length, filter_dim, position_dim)
        # one bias serves both sides
        self.filter_fn2 = None if causal else ImplicitFilter(dim, max_length, filter_dim, position_dim, bias=False)
        self.out_linear = linear(dim, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The long convolution; the short one says so itself."""
        B, L, C = shape
        return {"fft": long_conv_flops((B, C, L), (C, L), None if self.causal else (C, L))}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "its convolution is as long as the sequence; `mamba2` or `gated_delta_net` can continue")
        mask, length = token_mask(x, ctx), x.shape[1]
        if length > self.max_length:
            raise ValueError(f"a monarch_mixer of max_length {self.max_length} has no kernels for {length} tokens")
        u = zero_padding(run(self.in_linear, x, ctx), mask).transpose(1, 2)
        taps = self.short_filter.kernel_size[0] - 1
        around = (taps, 0) if self.causal else (taps // 2, taps // 2)
        gate, out_gate, v = self.short_filter(nn.functional.pad(u, around)).chunk(3, 1)
        v = v * gate if mask is None else v * gate * mask.unsqueeze(1)
        back = None if self.filter_fn2 is None else self.filter_fn2(length).T
        v = long_conv(v, self.filter_fn(length).T, self.filter_fn.bias, back)
        return run(self.out_linear, (v * out_gate).transpose(1, 2), ctx)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.out_linear.absorb_output(scale, shift))  # type: ignore[operator]
