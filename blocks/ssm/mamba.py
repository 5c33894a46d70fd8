"""Mamba: a gated short convolution and a selective scan. Paper: arXiv:2312.00752.

Names of the state are those of state-spaces/mamba (Apache-2.0). E = expand * C is here the inner width, N the size of a
channel's state, k the kernel of the convolution.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.ops.causal_conv1d import causal_conv1d, conv_state
from blocks.ops.masks import token_mask
from blocks.ops.selective_scan import selective_scan
from blocks.recurrent import short_conv_macs
from blocks.registry import block
from blocks.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]
Expand = Annotated[float, Meta(gt=0)]

STEP_RANGE = (1e-3, 1e-1)
"""Step sizes delta at the start of training, drawn evenly in their logarithm."""


class ScanInputs(NamedTuple):
    """u, delta (B, E, L), A (E, N), B, C (B, N, L): what a branch feeds to the scan, delta before its softplus."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor


@block(
    "mamba",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2312.00752",
)
class Mamba(nn.Module):
    """y = W_out((scan(u, delta, A, B, C) + D u) silu(z)), with u, delta, B, C and z all made from x.

    [u | z] = W_in x; u <- silu(conv u); [r | B | C] = W_x u; delta = softplus(W_dt r + b); A = -exp(A_log).
    (B, L, C) -> (B, L, C). `dt_rank`, the length of r, is ceil(C / 16) without a value. `ctx.mask` keeps padding out of
    the outputs; `ctx.state` continues sequences, holding the last inputs of the convolution (S, E, k-1) and the state of
    the scan (S, E, N), S = B or, for packed sequences, as many as `ctx.cu_seqlens` borders. Raises ValueError for a mask
    together with a state.
    """

    no_decay = ("A_log", "D")

    path = ""

    def __init__(
        self,
        dim: int,
        *,
        expand: Expand = 2.0,
        state_dim: Count = 16,
        kernel_size: Count = 4,
        dt_rank: Count | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        hidden_dim, dt_rank = int(expand * dim), dt_rank or math.ceil(dim / 16)
        self.in_proj = linear(dim, 2 * hidden_dim, bias=bias)
        self.conv1d = depthwise(hidden_dim, kernel_size, conv_bias)
        self.x_proj = nn.Linear(hidden_dim, dt_rank + 2 * state_dim, bias=False)
        self.dt_proj = StepProjection(dt_rank, hidden_dim)
        self.A_log = nn.Parameter(torch.empty(hidden_dim, state_dim))
        self.D = nn.Parameter(torch.empty(hidden_dim))
        self.out_proj = linear(hidden_dim, dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_decay(self.A_log, self.D)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        return conv_and_scan(shape, self.conv1d, self.A_log)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        states, borders = (None, None) if ctx is None else (ctx.state, ctx.cu_seqlens)
        mask = token_mask(x, ctx, packed=True)
        if mask is not None and states is not None:
            raise ValueError("mamba takes ctx.mask or ctx.state, not both: continue each sequence without padding")
        u, z = run(self.in_proj, x, ctx).transpose(1, 2).chunk(2, 1)
        u = without_padding(u, mask)
        conv, h = states.get(self.path, (None, None)) if states is not None else (None, None)
        inputs = scan_inputs(u, self.conv1d, self.x_proj, self.dt_proj, self.A_log, mask, conv, borders)
        y, h = selective_scan(
            *inputs,
            D=self.D,
            z=z,
            delta_softplus=True,
            initial_state=h,
            return_final_state=True,
            cu_seqlens=borders,
        )
        if states is not None:
            states[self.path] = conv_state(u, self.conv1d.kernel_size[0], conv, borders), h
        return run(self.out_proj, y.transpose(1, 2), ctx)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.out_proj.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.in_proj.absorb_input(scale, shift))  # type: ignore[operator]


class StepProjection(nn.Linear):
    """W_dt r + b, which starts at softplus^-1 of step sizes spread over STEP_RANGE."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -(self.in_features**-0.5), self.in_features**-0.5)
        low, high = (math.log(step) for step in STEP_RANGE)
        step = torch.empty_like(self.bias).uniform_(low, high).exp_()
        self.bias.copy_(step + torch.log(-torch.expm1(-step)))


def depthwise(channels: int, kernel_size: int, bias: bool) -> nn.Conv1d:
    return nn.Conv1d(channels, channels, kernel_size, groups=channels, bias=bias)


@torch.no_grad()
def reset_decay(A_log: Tensor, D: Tensor) -> None:
    """A = -(1, 2, …, N) in every channel, D = 1."""
    A_log.copy_(torch.arange(1, A_log.shape[1] + 1, device=A_log.device).log().expand_as(A_log))
    D.fill_(1)


def conv_and_scan(shape: tuple[int, ...], conv1d: nn.Conv1d, A_log: Tensor) -> dict[str, int]:
    """What one branch computes besides its layers: the convolution and the scan."""
    B, L, _ = shape
    return {"convolution": short_conv_macs(B, L, conv1d), "scan": scan_work(B, L, A_log)}


def scan_work(batch: int, length: int, A_log: Tensor) -> int:
    """9 B L D N floating-point operations, the count that is accepted for S6."""
    return 9 * batch * length * A_log.numel()


def without_padding(u: Tensor, mask: Tensor | None) -> Tensor:
    """`u` (B, E, L) with zeros where `mask` (B, L) is False."""
    return u if mask is None else u * mask.unsqueeze(1)


def scan_inputs(
    u: Tensor,
    conv1d: nn.Conv1d,
    x_proj: nn.Linear,
    dt_proj: nn.Linear,
    A_log: Tensor,
    mask: Tensor | None = None,
    state: Tensor | None = None,
    borders: Tensor | None = None,
) -> ScanInputs:
    """One branch from the inner stream u (B, E, L) up to the scan. A step of 0 at padding leaves the state alone."""
    u = causal_conv1d(u, conv1d.weight, conv1d.bias, state, "silu", borders)
    return convolved_inputs(u, x_proj, dt_proj, A_log, mask)


def convolved_inputs(
    u: Tensor, x_proj: nn.Linear, dt_proj: nn.Linear, A_log: Tensor, mask: Tensor | None = None
) -> ScanInputs:
    """The same from behind the convolution and its activation."""
    state_dim, dt_rank = A_log.shape[1], dt_proj.in_features
    step, B, C = x_proj(u.transpose(1, 2)).split([dt_rank, state_dim, state_dim], -1)
    delta = dt_proj(step)
    if mask is not None:
        delta = delta.masked_fill(~mask.unsqueeze(-1), -torch.inf)  # of which the softplus is 0
    A = -torch.exp(A_log.to(torch.promote_types(u.dtype, torch.float32)))
    return ScanInputs(u, delta.transpose(1, 2), A, B.transpose(1, 2), C.transpose(1, 2))
