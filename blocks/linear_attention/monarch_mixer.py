"""The sequence mixer of Monarch Mixer: a gated long convolution to both sides. Paper: arXiv:2310.12109.

Upstream: HazyResearch/m2 (Apache-2.0). The channel mixer of the paper is an `mlp` with the linear `monarch`.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.linear_attention.hyena import ImplicitFilter, Odd, filter_layers
from blocks.ops.long_conv import long_conv, long_conv_flops
from blocks.ops.masks import refuse_state, token_mask
from blocks.recurrent import zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]
LATER = {"added": "0.1"}


@block(
    "monarch_mixer",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "noncausal", "any_resolution", "1d"),
    paper="arXiv:2310.12109",
    covers=("m2",),
)
class MonarchMixer(nn.Module):
    """y = W_o (x_2 (h * (x_1 v) + bias x_1 v)), [x_1 | x_2 | v] = DW(W_i u), * a convolution to both sides or causal.

    Kernels are as long as the sequence and made from positions, one for the past, from the token itself on, and, unless
    `causal`, one for the future, from the next token on. DW is causal in either case. With `shared` the kernel of the future
    has the positions, frequencies and rates of the other, and only layers of its own. `residual` adds, before W_o, a long
    convolution of u with kernels of its own. M2-BERT has both. (B, L, C) -> (B, L, C) for L up to `max_length`. `ctx.mask`
    keeps padding out. Raises ValueError for longer sequences, and for a state or packed sequences.
    """

    filter_fn2: nn.Module | None

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
        shared: Annotated[bool, Meta(extra_json_schema=LATER)] = False,
        residual: Annotated[bool, Meta(extra_json_schema=LATER)] = False,
    ):
        super().__init__()
        self.causal, self.max_length = causal, max_length
        self.in_linear = linear(dim, 3 * dim, bias=bias)
        self.short_filter = nn.Conv1d(3 * dim, 3 * dim, kernel_size, groups=3 * dim)
        sizes = max_length, filter_dim, position_dim
        self.filter_fn = ImplicitFilter(dim, *sizes)
        self.filter_fn2 = None if causal else _future(dim, *sizes, shared)
        self.out_linear = linear(dim, dim, bias=bias)
        self.residual_fn = ImplicitFilter(dim, *sizes) if residual else None
        self.residual_fn2 = _future(dim, *sizes, shared) if residual and not causal else None

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The long convolutions; the short one says so itself."""
        B, L, C = shape
        flops: int = long_conv_flops((B, C, L), (C, L), None if self.causal else (C, L))
        return {"fft": flops if self.residual_fn is None else 2 * flops}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "its convolution is as long as the sequence; `mamba2` or `gated_delta_net` can continue")
        mask, length = token_mask(x, ctx), x.shape[1]
        if length > self.max_length:
            raise ValueError(f"a monarch_mixer of max_length {self.max_length} has no kernels for {length} tokens")
        if not length:
            return x
        u = zero_padding(run(self.in_linear, x, ctx), mask).transpose(1, 2)
        before = self.short_filter.kernel_size[0] - 1
        gate, out_gate, v = self.short_filter(F.pad(u, (before, 0))).chunk(3, 1)
        v = v * gate if mask is None else v * gate * mask.unsqueeze(1)
        y = _convolved(v, self.filter_fn, self.filter_fn2) * out_gate
        if self.residual_fn is not None:
            y = y + _convolved(zero_padding(x, mask).transpose(1, 2), self.residual_fn, self.residual_fn2)
        return run(self.out_linear, y.transpose(1, 2), ctx)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.out_linear.absorb_output(scale, shift))  # type: ignore[operator]


def _future(dim: int, max_length: int, filter_dim: int, position_dim: int, shared: bool) -> nn.Module:
    """The filter of the future: a whole one, or layers alone. It has no bias, since that of the past serves both."""
    if shared:
        return filter_layers(dim, filter_dim, position_dim)
    return ImplicitFilter(dim, max_length, filter_dim, position_dim, bias=False)


def _convolved(x: Tensor, past: ImplicitFilter, future: nn.Module | None) -> Tensor:
    """y_t = bias x_t + sum_{s <= t} past_{t-s} x_s + sum_{s > t} future_{s-t-1} x_s, (B, C, L) -> (B, C, L)."""
    length = x.shape[-1]
    if future is None:
        return long_conv(x, past(length).T, past.bias)
    ahead = past(length, future) if isinstance(future, nn.ModuleDict) else future(length)
    return long_conv(x, past(length).T, past.bias, F.pad(ahead.T[:, :-1], (1, 0)))
