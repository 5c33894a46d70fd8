"""H3: queries read a memory of products of keys and values, kept by two state space models. Paper: arXiv:2212.14052.

Upstream: HazyResearch/H3 (Apache-2.0). H is here the number of heads, d the width of one, N the size of a state.
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
from blocks.ops.causal_conv1d import causal_conv1d
from blocks.ops.long_conv import long_conv, long_conv_flops
from blocks.recurrent import Recurrent, State, one_by_one, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]

CHUNK = 64
"""Powers of a matrix are made as products of these many small ones and of powers of A^CHUNK."""
STEP_RANGE = (1e-3, 1e-1)
"""Steps at the start of training, drawn evenly in their logarithms."""
RATE = 0.5
"""-Re A at the start of training."""


@block(
    "h3",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2212.14052",
    covers=("hungry_hungry_hippos", "h3_hybrid"),
)
class H3(Recurrent):
    """y = W_o (q_t^T M_t), M = diagonal(shift(k) v^T) per head, with q, k, v = W_q x, W_k x, W_v x.

    `shift` is a state space model whose state are the last N inputs of a channel, hence a convolution of N taps; `diagonal` has a
    complex diagonal matrix (S4D) and is the same for all d x d entries of a head. (B, L, C) -> (B, L, C). Any length: whole sequences
    are convolved through spectra, and the state carries over. It holds the last inputs of `shift` (B, C, N - 1) and
    the state of `diagonal` (B, d, d, H, N / 2, 2). Raises ValueError when heads do not divide and for an odd `state_dim`.
    """

    def __init__(
        self,
        dim: int,
        *,
        head_dim: Count = 1,
        state_dim: Annotated[int, Meta(ge=2)] = 64,
        bias: bool = True,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        check_divides("head_dim", head_dim, "the width", dim)
        if state_dim % 2:
            raise ValueError(
                f"state_dim {state_dim} is odd: its complex numbers come in pairs; {state_dim + 1} would do"
            )
        self.num_heads, self.head_dim, self.state_dim = dim // head_dim, head_dim, state_dim
        self.q_proj = linear(dim, dim, bias=bias)
        self.k_proj = linear(dim, dim, bias=bias)
        self.v_proj = linear(dim, dim, bias=bias)
        self.shift = Shift(dim, state_dim)
        self.diagonal = Diagonal(self.num_heads, state_dim // 2)
        self.output_linear = linear(dim, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The short convolution and the long one, and what makes their kernels."""
        B, L, C = shape
        H, N = self.num_heads, self.state_dim
        rows = (B * self.head_dim**2, H, L)
        return {
            "convolution": B * (L + N - 1) * C * N,
            "fft": long_conv_flops(rows, (H, L), None),
            "matmul": C * N * N + H * -(-L // CHUNK) * N * CHUNK,
        }

    def state_size(self, length: int = 0) -> int:
        dim = self.num_heads * self.head_dim
        return dim * (self.state_dim - 1) + dim * self.head_dim * self.state_dim

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        return self._mixed(x, state, mask, ctx is not None and ctx.state is not None)

    def mix_packed(self, x: Tensor, state: State | None, borders: Tensor, ctx: Context) -> tuple[Tensor, State]:
        kept = ctx.state is not None
        return one_by_one(lambda x, state, mask, _: self._mixed(x, state, mask, kept), x, state, borders, ctx)

    def _mixed(self, x: Tensor, state: State | None, mask: Tensor | None, kept: bool) -> tuple[Tensor, State]:
        """The state is made where it is kept: it costs as much as a kernel for each sample."""
        before, memory = state or (None, None)
        q, k, v = (run(map_, x).transpose(1, 2) for map_ in (self.q_proj, self.k_proj, self.v_proj))
        k, before = self.shift(k, before, mask)
        heads = (self.num_heads, self.head_dim)
        q, k, v = (part.unflatten(1, heads).transpose(1, 2) for part in (q, k, v))  # (B, d, H, L)
        written = k.unsqueeze(2) * v.unsqueeze(1)
        read = self.diagonal(written, memory)
        after = (before, self.diagonal.last(written, memory, mask)) if kept else ()
        y = (read * q.unsqueeze(2)).sum(1).flatten(1, 2).transpose(1, 2)  # channels by d, then by head, as upstream's
        return run(self.output_linear, y.to(x.dtype)), after

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.output_linear.absorb_output(scale, shift))  # type: ignore[operator]


class Shift(nn.Module):
    """y_t = sum_j c_j x_{t-j} + D x_t with c_j = sum_n B_n C_{n+j}: the state holds what B x was, and moves on by one place a step.

    x (B, C, L), `before` (B, C, N - 1), `mask` (B, L) -> (y, the last inputs).
    """

    def __init__(self, dim: int, state_dim: int):
        super().__init__()
        self.B = nn.Parameter(torch.empty(dim, state_dim))
        self.C = nn.Parameter(torch.empty(dim, state_dim))
        self.D = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.B.zero_()[:, 0] = 1.0
        nn.init.uniform_(self.C, -(self.C.shape[1] ** -0.5), self.C.shape[1] ** -0.5)
        nn.init.normal_(self.D)

    def forward(self, x: Tensor, before: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        N = self.B.shape[1]
        windows = F.pad(self.C, (0, N - 1)).unfold(1, N, 1)
        taps = (windows @ self.B.unsqueeze(2)).squeeze(2)
        y = causal_conv1d(x, taps.flip(1), None, before) + self.D.unsqueeze(1) * x
        joined = torch.cat([x.new_zeros(*x.shape[:2], N - 1) if before is None else before.to(x.dtype), x], -1)
        if mask is None:
            return y, joined[..., joined.shape[-1] - (N - 1) :].clone()
        places = mask.sum(1, keepdim=True) + torch.arange(N - 1, device=x.device)
        return y, joined.gather(2, places.unsqueeze(1).expand(-1, x.shape[1], -1))


class Diagonal(nn.Module):
    """y_t = 2 Re(C h_t) + D u_t, h_t = A' h_{t-1} + B' u_t per head, A and B by the bilinear rule with steps exp(log_dt).

    A' = (1 + dt A / 2) / (1 - dt A / 2), B' = dt B / (1 - dt A / 2), A = -exp(inv_A_real) + i A_imag, of M = N / 2 complex numbers.
    u (B, d, d, H, L), `memory` (B, d, d, H, M, 2) -> y. Complex numbers are pairs, (…, 2).
    """

    def __init__(self, num_heads: int, state_dim: int):
        super().__init__()
        self.log_dt = nn.Parameter(torch.empty(num_heads))
        self.inv_A_real = nn.Parameter(torch.empty(num_heads, state_dim))
        self.A_imag = nn.Parameter(torch.empty(num_heads, state_dim))
        self.B = nn.Parameter(torch.empty(num_heads, state_dim, 2))
        self.C = nn.Parameter(torch.empty(num_heads, state_dim, 2))
        self.D = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        low, high = (math.log(step) for step in STEP_RANGE)
        nn.init.uniform_(self.log_dt, low, high)
        nn.init.constant_(self.inv_A_real, math.log(RATE))
        self.A_imag.copy_(math.pi * torch.arange(self.A_imag.shape[1], dtype=torch.float32).expand_as(self.A_imag))
        self.B.zero_()[..., 0] = 1.0
        nn.init.normal_(self.C, std=0.5**0.5)
        nn.init.normal_(self.D)

    def forward(self, u: Tensor, memory: Tensor | None) -> Tensor:
        length, wide = u.shape[-1], torch.promote_types(u.dtype, torch.float32)
        C = self.C.to(wide)
        taps = self._taps(_product(C, self._entry(wide)), length)
        y = long_conv(u.to(wide).flatten(0, 2), taps, self.D.to(wide)).view(u.shape)
        if memory is None:
            return y
        step = self._powers(torch.ones((), device=u.device, dtype=wide))
        return y + self._taps(_product(_product(C, step), memory.to(wide)), length)

    def last(self, u: Tensor, memory: Tensor | None, mask: Tensor | None) -> Tensor:
        """h behind the last token of each sample: sum_l A'^l B' u_{n-1-l} + A'^n h, n its number of tokens."""
        length, wide = u.shape[-1], torch.promote_types(u.dtype, torch.float32)
        counts = torch.full((u.shape[0],), length, device=u.device) if mask is None else mask.sum(1)
        places = counts[:, None] - 1 - torch.arange(length, device=u.device)
        index = places.clamp_min(0)[:, None, None, None].expand(u.shape)
        latest = zero_padding(u.to(wide).gather(-1, index).movedim(-1, 1), places >= 0).movedim(1, -1)
        small, large = self._power_table(length, wide)
        chunks = F.pad(latest, (0, -length % CHUNK)).unflatten(-1, (large.shape[1], CHUNK))
        parts = (chunks @ small.flatten(2)).unflatten(-1, small.shape[2:])
        h = _product(_product(parts, large).sum(-3), self._entry(wide))
        if memory is None:
            return h
        return h + _product(self._powers(counts.to(wide).view(-1, 1, 1, 1, 1)), memory.to(wide))

    def _step(self, wide: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """(dt, the real and the imaginary part of dt A / 2), of (H, 1) and (H, M)."""
        dt = self.log_dt.to(wide).exp().unsqueeze(1)
        return dt, -dt / 2 * self.inv_A_real.to(wide).exp(), dt / 2 * self.A_imag.to(wide)

    def _powers(self, exponents: Tensor) -> Tensor:
        """A'^exponents (…, H, M, 2), exponents (…, 1, 1) or one number, by its absolute value and its angle."""
        _, real, imag = self._step(exponents.dtype)
        square = imag.square()
        size = 0.5 * (((1 + real).square() + square).log() - ((1 - real).square() + square).log())
        angle = torch.atan2(imag, 1 + real) + torch.atan2(imag, 1 - real)
        return _polar(exponents * size, exponents * angle)

    def _entry(self, wide: torch.dtype) -> Tensor:
        """B' (H, M, 2)."""
        dt, real, imag = self._step(wide)
        inverse = torch.stack([1 - real, imag], -1) / ((1 - real).square() + imag.square()).unsqueeze(-1)
        return dt.unsqueeze(-1) * _product(self.B.to(wide), inverse)

    def _power_table(self, length: int, wide: torch.dtype) -> tuple[Tensor, Tensor]:
        """A'^0 … A'^(CHUNK - 1) (H, CHUNK, M, 2), and A'^(CHUNK j) (H, J, M, 2) for the J chunks of a length."""
        counts = torch.arange(CHUNK, device=self.log_dt.device, dtype=wide).view(-1, 1, 1)
        starts = CHUNK * torch.arange((length + CHUNK - 1) // CHUNK, device=self.log_dt.device, dtype=wide)
        return self._powers(counts).transpose(0, 1), self._powers(starts.view(-1, 1, 1)).transpose(0, 1)

    def _taps(self, weight: Tensor, length: int) -> Tensor:
        """2 Re(weight A'^l) for l from 0 to length - 1, (…, H, length), of weights (…, H, M, 2)."""
        small, large = self._power_table(length, weight.dtype)
        starts = _product(weight.unsqueeze(-3), large) * weight.new_tensor([2.0, -2.0])
        return (starts.flatten(-2) @ small.flatten(2).mT).flatten(-2)[..., :length]


def _product(x: Tensor, y: Tensor) -> Tensor:
    """x y of complex numbers as pairs (…, 2)."""
    a, b = x.unbind(-1)
    c, d = y.unbind(-1)
    return torch.stack([a * c - b * d, a * d + b * c], -1)


def _polar(size: Tensor, angle: Tensor) -> Tensor:
    """exp(size + i angle) as a pair (…, 2)."""
    return size.exp().unsqueeze(-1) * torch.stack([angle.cos(), angle.sin()], -1)
