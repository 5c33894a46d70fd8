"""Orchid: a gated circular convolution whose kernel a small network makes from the sequence itself. Paper: arXiv:2402.18508.

Upstream: Karami-m/orchid (MIT), whose transforms carry the factors 1 / L that are here. F are the L / 2 + 1 frequencies of L tokens.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.linear_attention.hyena import ImplicitFilter, Odd
from blocks.ops.causal_conv1d import causal_conv1d
from blocks.ops.masks import refuse_state, token_mask
from blocks.recurrent import depthwise, short_conv_macs
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]
Taps = Annotated[int, Meta(ge=1, le=63)]


@block(
    "orchid",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal", "any_resolution", "1d"),
    paper="arXiv:2402.18508",
    covers=("orchid_operator", "data_dependent_convolution"),
)
class Orchid(nn.Module):
    """y = W_o (x_1 (h * (x_2 v) / L + bias x_2 v) + r), [x_1 | x_2 | v] = DW(W_i u), * the circular convolution over the sequence.

    h = h_0 + h(w), w the part of W_i u that v is made from: h_0 is made from positions, as in `hyena`. Of the kind `magnitudes` the spectrum of
    h(w) is L norm(conv_F(|DFT(norm(conv w)) / L|^2)), conv_F along the frequencies; of the kind `correlation` it is that of
    norm(conv_q w) correlated with norm(conv_k w), over L. Both follow a shift of the sequence. DW is causal; r = h_r * u / L + bias_r u
    where `residual`, with positions of its own. (B, L, C) -> (B, L, C) for L up to `max_length`. With `ctx.mask` each
    sample is a circle of its own length. Raises ValueError for longer sequences, and for a state or packed sequences.
    """

    def __init__(
        self,
        dim: int,
        *,
        kind: Literal["magnitudes", "correlation"] = "magnitudes",
        max_length: Count = 1024,
        filter_dim: Count = 64,
        filter_depth: Annotated[int, Meta(ge=1, le=64)] = 3,
        position_dim: Odd = 3,
        kernel_size: Count = 3,
        filter_size: Taps = 3,
        residual: bool = True,
        bias: bool = True,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.dim, self.max_length = dim, max_length
        if filter_size % 2 == 0:
            raise ValueError(
                f"filter_size {filter_size} is even, and its middle is where it looks; {filter_size + 1} would do"
            )
        sizes = max_length, filter_dim, position_dim, filter_depth
        self.in_linear = linear(dim, 3 * dim, bias=bias)
        self.short_filter = depthwise(3 * dim, kernel_size, bias=True)
        self.filter_fn = ImplicitFilter(dim, *sizes)
        self.conditioning = Magnitudes(dim, filter_size) if kind == "magnitudes" else Correlation(dim, filter_size)
        self.residual_fn = ImplicitFilter(dim, *sizes) if residual else None
        self.out_linear = linear(dim, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The short convolution, and the transforms: one back for each sample and several there; kernels of positions have one each."""
        B, L, C = shape
        rows = [B * C] * (self.conditioning.transforms + 2) + [C]
        if self.residual_fn is not None:
            rows += [B * C] * 2 + [C]
        flops = sum(int(2.5 * count * L * math.log2(max(L, 2))) for count in rows)
        return {"convolution": short_conv_macs(B, L, self.short_filter), "fft": flops} if L else {}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "its kernel comes from the whole sequence; `mamba2` or `gated_delta_net` can continue")
        mask, length = token_mask(x, ctx), x.shape[1]
        if length > self.max_length:
            raise ValueError(f"an orchid of max_length {self.max_length} has no kernels for {length} tokens")
        if type(x) is Tensor and not x.numel():
            return x
        if mask is None:
            return self._mixed(x, ctx)
        alone = [
            self._mixed(row[real].unsqueeze(0), ctx).squeeze(0) for row, real in zip(x, mask, strict=True) if real.any()
        ]
        y = torch.zeros_like(x)
        return y.masked_scatter(mask.unsqueeze(-1), torch.cat(alone).to(x.dtype)) if alone else y

    def _mixed(self, x: Tensor, ctx: Context | None) -> Tensor:
        u = run(self.in_linear, x, ctx).transpose(1, 2)
        given = self.conditioning(u[:, -self.dim :])
        out_gate, gate, v = causal_conv1d(u, self.short_filter.weight, self.short_filter.bias).chunk(3, 1)
        y = out_gate * convolved(v * gate, self.filter_fn, given)
        if self.residual_fn is not None:
            y = y + convolved(x.transpose(1, 2), self.residual_fn)
        return run(self.out_linear, y.transpose(1, 2).to(x.dtype), ctx)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.out_linear.absorb_output(scale, shift))  # type: ignore[operator]


class NormedConv(nn.Module):
    """norm(conv x) of x (B, C, N): a convolution of each channel by itself to all sides, and a layer norm over channels, (B, out, N)."""

    def __init__(self, dim: int, out_dim: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv1d(dim, out_dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x).transpose(1, 2))
        return y.transpose(1, 2)


class Magnitudes(nn.Module):
    """The spectrum (B, C, F) of a kernel from the magnitudes of that of w (B, C, L), which no shift changes."""

    transforms = 1

    def __init__(self, dim: int, kernel_size: int):
        super().__init__()
        self.time = NormedConv(dim, dim, kernel_size)
        self.frequency = NormedConv(dim, 2 * dim, kernel_size)

    def forward(self, w: Tensor) -> Tensor:
        power = torch.view_as_real(spectrum(self.time(w))).square().sum(-1)
        parts = self.frequency(power.to(w.dtype)).unflatten(1, (-1, 2)).movedim(2, -1)
        return torch.view_as_complex(parts.to(torch.promote_types(w.dtype, torch.float32)).contiguous())


class Correlation(nn.Module):
    """The spectrum (B, C, F) of two maps of w (B, C, L) correlated with each other, which no shift of both changes."""

    transforms = 2

    def __init__(self, dim: int, kernel_size: int):
        super().__init__()
        self.k, self.q = (NormedConv(dim, dim, kernel_size) for _ in range(2))

    def forward(self, w: Tensor) -> Tensor:
        return spectrum(self.k(w)).conj() * spectrum(self.q(w))


def spectrum(x: Tensor) -> Tensor:
    """DFT(x) / L (…, F) of x (…, L), in float32 at least."""
    return torch.fft.rfft(x.to(torch.promote_types(x.dtype, torch.float32)), norm="forward")


def convolved(x: Tensor, kernel: ImplicitFilter, given: Tensor | None = None) -> Tensor:
    """h * x / L + bias x for x (B, C, L), h the kernel and, where there is one, the one of the spectrum `given`."""
    taps = spectrum(kernel(x.shape[-1]).T)
    y = torch.fft.irfft(spectrum(x) * (taps if given is None else taps + given), x.shape[-1], norm="forward")
    return torch.addcmul(y, x.to(y.dtype), kernel.bias.to(y.dtype).unsqueeze(-1))  # type: ignore[union-attr]
