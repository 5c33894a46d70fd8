"""Hyena: long convolutions whose kernels a small network of sines makes from positions, with gates between.

Paper: arXiv:2302.10866. Upstream: HazyResearch/safari (Apache-2.0), of whose checkpoints the names are; its three shared
frequencies have one name here. D is here the width, N the order: the number of products.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.ops.causal_conv1d import causal_conv1d
from blocks.ops.long_conv import long_conv, long_conv_flops
from blocks.ops.masks import refuse_state, token_mask
from blocks.recurrent import depthwise, short_conv_macs, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]
Odd = Annotated[int, Meta(ge=3)]

SLOWEST, FASTEST = 0.3, 1.5
"""The shares of the length after which the slowest and the fastest kernels have shrunk to a hundredth."""


@block(
    "hyena",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "any_resolution", "1d"),
    paper="arXiv:2302.10866",
    covers=("hyena_operator",),
)
class Hyena(nn.Module):
    """y = W_o (x_1 z_N), z_1 = v, z_{n+1} = h_n * (x_n' z_n) + bias_n x_n' z_n, with [x_1 | … | x_N | v] = conv(W_i u).

    * is the causal convolution with kernels h_n as long as the sequence, made by `filter_fn` from positions; the x_n' are the
    x_n from the last to the second. (B, L, C) -> (B, L, C) for L up to `max_length`. `ctx.mask` keeps padding out. Raises
    ValueError for longer sequences, an even number of features of positions, and for a state or packed sequences.
    """

    def __init__(
        self,
        dim: int,
        *,
        order: Annotated[int, Meta(ge=2)] = 2,
        max_length: Count = 1024,
        filter_dim: Count = 64,
        position_dim: Odd = 3,
        kernel_size: Count = 3,
        bias: bool = True,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.dim, self.order, self.max_length = dim, order, max_length
        self.in_proj = linear(dim, (order + 1) * dim, bias=bias)
        self.short_filter = depthwise((order + 1) * dim, kernel_size, bias=True)
        self.filter_fn = ImplicitFilter(dim * (order - 1), max_length, filter_dim, position_dim)
        self.out_proj = linear(dim, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The short convolution, and `order` - 1 long ones."""
        B, L, _ = shape
        long = long_conv_flops((B, self.dim, L), (self.dim, L), None)
        return {"convolution": short_conv_macs(B, L, self.short_filter), "fft": (self.order - 1) * long}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "its convolutions are as long as the sequence; `mamba2` or `gated_delta_net` can continue")
        mask, length = token_mask(x, ctx), x.shape[1]
        if length > self.max_length:
            raise ValueError(f"a hyena of max_length {self.max_length} has no kernels for {length} tokens")
        u = zero_padding(run(self.in_proj, x, ctx), mask).transpose(1, 2)
        *gates, v = causal_conv1d(u, self.short_filter.weight, self.short_filter.bias).split(self.dim, 1)
        kernels = self.filter_fn(length).unflatten(1, (-1, self.dim)).permute(1, 2, 0)
        biases = self.filter_fn.bias.unflatten(0, (-1, self.dim))
        for kernel, bias, gate in zip(kernels, biases, reversed(gates[1:]), strict=True):
            v = v * gate if mask is None else v * gate * mask.unsqueeze(1)
            v = long_conv(v, kernel, bias)
        return run(self.out_proj, (v * gates[0]).transpose(1, 2), ctx)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.out_proj.absorb_output(scale, shift))  # type: ignore[operator]


class ImplicitFilter(nn.Module):
    """h(t) = exp(-t |delta|) MLP(z(t)) per channel, with sines of learned frequencies between the layers of the MLP.

    z(t) are t = 0 … 1 itself and cosines and sines of it, `position_dim` numbers in all, learned from there on.
    """

    freq: Tensor

    bias: nn.Parameter | None

    def __init__(
        self, channels: int, max_length: int, hidden_dim: int, position_dim: int, depth: int = 3, bias: bool = True
    ):
        super().__init__()
        if position_dim % 2 == 0:
            raise ValueError(
                f"position_dim {position_dim} is even: positions are t and pairs of cosine and sine; {position_dim + 1} would do"
            )
        self.register_parameter("bias", nn.Parameter(torch.empty(channels)) if bias else None)
        self.freq = nn.Parameter(torch.empty(1, hidden_dim))
        self.implicit_filter = filter_layers(channels, hidden_dim, position_dim, depth)
        self.pos_emb = Positions(max_length, position_dim)
        self.modulation = Modulation(channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.bias is not None:
            nn.init.normal_(self.bias)
        nn.init.constant_(self.freq, 1.0)

    def forward(self, length: int, others: nn.ModuleDict | None = None) -> Tensor:
        """(L, channels), of the own layers or of `others`, at the same positions, frequencies and rates."""
        h = self.pos_emb.z[0, :length]
        *layers, last = (self.implicit_filter if others is None else others).values()
        for layer in layers:
            h = torch.sin(self.freq * layer(h))
        y: Tensor = last(h) * torch.exp(-self.pos_emb.t[0, :length] * self.modulation.deltas[0].abs())
        return y


def filter_layers(channels: int, hidden_dim: int, position_dim: int, depth: int = 3) -> nn.ModuleDict:
    """The linear layers of a filter's MLP. Upstream counts the sines between them, too."""
    widths = itertools.pairwise([position_dim, *[hidden_dim] * depth])
    layers = {str(2 * index): nn.Linear(*width) for index, width in enumerate(widths)}
    return nn.ModuleDict(layers | {str(2 * depth): nn.Linear(hidden_dim, channels, bias=False)})


class Positions(nn.Module):
    """z (1, max_length, features), learned, and t (1, max_length, 1) from 0 to 1."""

    t: Tensor

    def __init__(self, max_length: int, features: int):
        super().__init__()
        self.z = nn.Parameter(torch.empty(1, max_length, features))
        self.register_buffer("t", torch.empty(1, max_length, 1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        _, length, features = self.z.shape
        steps, bands = torch.arange(length, dtype=torch.float32), (features - 1) // 2
        t = steps / max(1, length - 1)
        turns = torch.linspace(1e-4, max(bands - 1, 1e-4), bands) * (2 * math.pi / length) * steps.unsqueeze(1)
        self.t.copy_(t.view(1, -1, 1))
        self.z.copy_(torch.cat([t.unsqueeze(1), turns.cos(), -turns.sin()], 1).unsqueeze(0))


class Modulation(nn.Module):
    """Rates delta (1, 1, channels) from slow to fast."""

    def __init__(self, channels: int):
        super().__init__()
        self.deltas = nn.Parameter(torch.empty(1, 1, channels))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        rates = torch.linspace(math.log(1e-2) / FASTEST, math.log(1e-2) / SLOWEST, self.deltas.numel())
        self.deltas.copy_(rates.view(1, 1, -1))
