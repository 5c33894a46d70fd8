"""Mamba: a gated short convolution and a selective scan. Paper: arXiv:2312.00752.

Names of the state are those of state-spaces/mamba (Apache-2.0). E = expand * C is here the inner width, N the size of a
channel's state, k the kernel of the convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.ops.causal_conv1d import causal_conv1d, conv_state
from blocks.ops.selective_scan import selective_scan
from blocks.recurrent import Recurrent, State, depthwise, short_conv, short_conv_macs
from blocks.registry import block
from blocks.registry.slots import Linear, Norm, slot

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
    covers=("s6",),
)
class Mamba(Recurrent):
    """y = W_out((scan(u, delta, A, B, C) + D u) silu(z)), with u, delta, B, C and z all made from x.

    [u | z] = W_in x; u <- silu(conv u); [r | B | C] = W_x u; delta = softplus(W_dt r + b); A = -exp(A_log).
    (B, L, C) -> (B, L, C). `dt_rank`, the length of r, is ceil(C / 16) without a value. `norm` norms each of r, B and C (Jamba,
    arXiv:2403.19887). The state holds the last inputs of
    the convolution (B, E, k-1) and the state of the scan (B, E, N).
    """

    no_decay = ("A_log", "D")

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
        norm: Annotated[Norm | None, Meta(extra_json_schema={"added": "0.1"})] = None,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        hidden_dim, dt_rank = int(expand * dim), dt_rank or math.ceil(dim / 16)
        self.in_proj = linear(dim, 2 * hidden_dim, bias=bias)
        self.conv1d = depthwise(hidden_dim, kernel_size, conv_bias)
        self.x_proj = nn.Linear(hidden_dim, dt_rank + 2 * state_dim, bias=False)
        self.dt_layernorm = norm(dt_rank) if norm else None
        self.b_layernorm = norm(state_dim) if norm else None
        self.c_layernorm = norm(state_dim) if norm else None
        self.dt_proj = StepProjection(dt_rank, hidden_dim)
        self.A_log = nn.Parameter(torch.empty(hidden_dim, state_dim))
        self.D = nn.Parameter(torch.empty(hidden_dim))
        self.out_proj = linear(hidden_dim, dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_decay(self.A_log, self.D)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        return conv_and_scan(shape, self.conv1d, self.A_log)

    def state_size(self, length: int = 0) -> int:
        return self.A_log.numel() + self.conv1d.in_channels * (self.conv1d.kernel_size[0] - 1)

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        u, z = run(self.in_proj, x, ctx).chunk(2, -1)
        conv, h = state or (None, None)
        u, conv = short_conv(u, self.conv1d, conv, mask)
        return self._scanned(u, z, (conv, h), mask, None, ctx)

    def mix_packed(self, x: Tensor, state: State | None, borders: Tensor, ctx: Context) -> tuple[Tensor, State]:
        """All sequences at once: the convolution and the scan know where each begins."""
        u, z = run(self.in_proj, x, ctx).transpose(1, 2).chunk(2, 1)
        conv, h = state or (None, None)
        after = conv_state(u, self.conv1d.kernel_size[0], conv, borders)
        u = causal_conv1d(u, self.conv1d.weight, self.conv1d.bias, conv, "silu", borders)
        return self._scanned(u.transpose(1, 2), z.transpose(1, 2), (after, h), None, borders, ctx)

    def _scanned(
        self,
        u: Tensor,
        z: Tensor,
        state: tuple[Tensor, Tensor | None],
        mask: Tensor | None,
        borders: Tensor | None,
        ctx: Context | None,
    ) -> tuple[Tensor, State]:
        """From behind the convolution: u, z (B, L, E) and the state, of which the scan's part is that before it."""
        conv, h = state
        y, h = selective_scan(
            *convolved_inputs(u.transpose(1, 2), self.x_proj, self.dt_proj, self.A_log, mask, self._norms()),
            D=self.D,
            z=z.transpose(1, 2),
            delta_softplus=True,
            initial_state=h,
            return_final_state=True,
            cu_seqlens=borders,
        )
        return run(self.out_proj, y.transpose(1, 2), ctx), (conv, h)

    def _norms(self) -> list[nn.Module]:
        """Those of r, B and C, or none."""
        return [norm for norm in (self.dt_layernorm, self.b_layernorm, self.c_layernorm) if norm is not None]

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.out_proj.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.in_proj.absorb_input(scale, shift))  # type: ignore[operator]


class StepProjection(nn.Linear):
    """W_dt r + b, which starts at softplus^-1 of step sizes spread over STEP_RANGE."""

    def reset_parameters(self) -> None:
        reset_steps(self.weight, self.bias)


@torch.no_grad()
def reset_steps(weight: Tensor, bias: Tensor) -> None:
    """First values of a projection (..., R) of step sizes, and of its bias."""
    bound = weight.shape[-1] ** -0.5
    nn.init.uniform_(weight, -bound, bound)
    low, high = (math.log(step) for step in STEP_RANGE)
    step = torch.empty_like(bias).uniform_(low, high).exp_()
    bias.copy_(step + torch.log(-torch.expm1(-step)))


def conv_and_scan(shape: tuple[int, ...], conv1d: nn.Conv1d, A_log: Tensor) -> dict[str, int]:
    """What one branch computes besides its layers: the convolution and the scan."""
    B, L, _ = shape
    return {"convolution": short_conv_macs(B, L, conv1d), "scan": scan_work(B, L, A_log)}


def scan_work(batch: int, length: int, A_log: Tensor) -> int:
    """9 B L D N floating-point operations, the count that is accepted for S6."""
    return 9 * batch * length * A_log.numel()


@torch.no_grad()
def reset_decay(A_log: Tensor, D: Tensor) -> None:
    """A = -(1, 2, …, N) in every channel, D = 1."""
    A_log.copy_(torch.arange(1, A_log.shape[1] + 1, device=A_log.device).log().expand_as(A_log))
    D.fill_(1)


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
) -> ScanInputs:
    """One branch from the inner stream u (B, E, L) up to the scan. A step of 0 at padding leaves the state alone."""
    u = causal_conv1d(u, conv1d.weight, conv1d.bias, act="silu")
    return convolved_inputs(u, x_proj, dt_proj, A_log, mask)


def convolved_inputs(
    u: Tensor,
    x_proj: nn.Linear,
    dt_proj: nn.Linear,
    A_log: Tensor,
    mask: Tensor | None = None,
    norms: Sequence[nn.Module] = (),
) -> ScanInputs:
    """The same from behind the convolution and its activation; `norms` are those of r, B and C where there are any."""
    state_dim, dt_rank = A_log.shape[1], dt_proj.in_features
    parts = x_proj(u.transpose(1, 2)).split([dt_rank, state_dim, state_dim], -1)
    step, B, C = (norm(part) for norm, part in zip(norms, parts, strict=True)) if norms else parts
    delta = dt_proj(step)
    if mask is not None:
        delta = delta.masked_fill(~mask.unsqueeze(-1), -torch.inf)  # of which the softplus is 0
    A = -torch.exp(A_log.to(torch.promote_types(u.dtype, torch.float32)))
    return ScanInputs(u, delta.transpose(1, 2), A, B.transpose(1, 2), C.transpose(1, 2))
