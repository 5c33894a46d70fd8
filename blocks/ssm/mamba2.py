"""Mamba-2: a gated short convolution and a linear recurrence with one decay per head. Paper: arXiv:2405.21060.

Names of the state are those of state-spaces/mamba (Apache-2.0). E = expand * C is here the inner width, H = E / head_dim the
number of heads, G of groups of heads that share B and C, N the size of the state, k the kernel of the convolution.
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
from blocks.ops.linear_recurrence import linear_recurrence
from blocks.recurrent import Recurrent, State, depthwise, short_conv, short_conv_macs, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot
from blocks.ssm.mamba import STEP_RANGE

Count = Annotated[int, Meta(ge=1)]
Step = Annotated[float, Meta(ge=0)]
Neutral = Annotated[bool, Meta(extra_json_schema={"added": "0.1"})]
FiveNumbers = Annotated[list[float], Meta(min_length=5, max_length=5)]
Multipliers = Annotated[FiveNumbers | None, Meta(extra_json_schema={"added": "0.1"})]

DECAY_RANGE = (1.0, 16.0)
"""Rates -A at the start of training, drawn evenly."""


@block(
    "mamba2",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2405.21060",
    covers=("ssd",),
)
class Mamba2(Recurrent):
    """y = W_out norm((S C + D u) silu(z)), S_t = exp(dt A) S_{t-1} + B (dt u)^T per head, with u, B, C, z and dt made from x.

    [z | u | B | C | dt] = W_in x; [u | B | C] <- silu(conv [u | B | C]); dt = softplus(dt + dt_bias), kept within `dt_limit`;
    A = -exp(A_log). (B, L, C) -> (B, L, C). The norm takes the mean square of each of `norm_groups` parts of the width, of as many
    as there are groups without a value. With `gate_last` the gate stands behind it, norm(S C + D u) silu(z), and without `normed`
    there is none. `multipliers` scale z, u, B, C and dt behind W_in (Falcon-H1, arXiv:2507.22448). The state holds the last inputs of the convolution
    (B, E + 2 G N, k - 1) and S (B, H, N, head_dim). Raises ValueError when heads or groups do not divide.
    """

    no_decay = ("A_log", "D", "dt_bias")

    def __init__(
        self,
        dim: int,
        *,
        expand: Annotated[float, Meta(gt=0)] = 2.0,
        head_dim: Count = 64,
        state_dim: Count = 128,
        groups: Count = 1,
        norm_groups: Count | None = None,
        kernel_size: Count = 4,
        dt_limit: Annotated[list[Step], Meta(min_length=2, max_length=2)] | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        eps: Annotated[float, Meta(gt=0)] = 1e-5,
        gate_last: Neutral = False,
        normed: Neutral = True,
        multipliers: Multipliers = None,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.hidden_dim, self.head_dim, self.state_dim = int(expand * dim), head_dim, state_dim
        check_divides("head_dim", head_dim, "expand * dim", self.hidden_dim)
        self.num_heads, self.groups, self.norm_groups = self.hidden_dim // head_dim, groups, norm_groups or groups
        check_divides("groups", groups, "num_heads", self.num_heads)
        check_divides("norm_groups", self.norm_groups, "expand * dim", self.hidden_dim)
        self.dt_limit, self.gate_last, self.multipliers = dt_limit, gate_last, multipliers
        width = self.hidden_dim + 2 * groups * state_dim
        self.in_proj = linear(dim, self.hidden_dim + width + self.num_heads, bias=bias)
        self.conv1d = depthwise(width, kernel_size, conv_bias)
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads))
        self.A_log = nn.Parameter(torch.empty(self.num_heads))
        self.D = nn.Parameter(torch.empty(self.num_heads))
        self.norm = nn.RMSNorm(self.hidden_dim, eps=eps) if normed else None
        self.out_proj = linear(self.hidden_dim, dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_rates(self.dt_bias, self.A_log)
        nn.init.ones_(self.D)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The convolution, and 5 L hidden_dim state_dim operations of the recurrence."""
        B, L, _ = shape
        return {"convolution": short_conv_macs(B, L, self.conv1d), "scan": 5 * B * L * self.hidden_dim * self.state_dim}

    def state_size(self, length: int = 0) -> int:
        width = self.conv1d.in_channels
        return width * (self.conv1d.kernel_size[0] - 1) + self.hidden_dim * self.state_dim

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        conv, S = state or (None, None)
        sizes = [self.hidden_dim, self.conv1d.in_channels, self.num_heads]
        z, convolved, step = self._scaled(run(self.in_proj, x)).split(sizes, -1)
        convolved, conv = short_conv(convolved, self.conv1d, conv, mask)
        rows = self.groups * self.state_dim
        u, B, C = convolved.split([self.hidden_dim, rows, rows], -1)
        u, B, C = u.unflatten(-1, (-1, self.head_dim)), *(x.unflatten(-1, (self.groups, -1)) for x in (B, C))
        wide = torch.promote_types(x.dtype, torch.float32)
        dt = F.softplus(step.to(wide) + self.dt_bias.to(wide))
        dt = zero_padding(dt if self.dt_limit is None else dt.clamp(*self.dt_limit), mask)
        log_decay = -torch.exp(self.A_log.to(wide)) * dt
        y, S = linear_recurrence(C, B, u * dt.unsqueeze(-1), log_decay, initial_state=S, return_final_state=True)
        y = torch.addcmul(y, u, self.D.to(wide).unsqueeze(-1)).flatten(2)
        return run(self.out_proj, self._gated(y, F.silu(z.to(wide))).to(x.dtype)), (conv, S)

    def _scaled(self, x: Tensor) -> Tensor:
        """What comes out of W_in, each of its five parts times its multiplier."""
        if self.multipliers is None:
            return x
        rows = self.groups * self.state_dim
        parts = x.split([self.hidden_dim, self.hidden_dim, rows, rows, self.num_heads], -1)
        return torch.cat([part * scale for part, scale in zip(parts, self.multipliers, strict=True)], -1)

    def _gated(self, y: Tensor, gate: Tensor) -> Tensor:
        return self._normed(y) * gate if self.gate_last else self._normed(y * gate)

    def _normed(self, y: Tensor) -> Tensor:
        if self.norm is None:
            return y
        parts = y.unflatten(-1, (self.norm_groups, -1))
        return F.rms_norm(parts, parts.shape[-1:], None, self.norm.eps).flatten(2) * self.norm.weight

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.out_proj.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.in_proj.absorb_input(scale, shift))  # type: ignore[operator]


@torch.no_grad()
def reset_rates(dt_bias: Tensor, A_log: Tensor) -> None:
    """Steps softplus(dt_bias) drawn evenly in their logarithm from STEP_RANGE, rates exp(A_log) evenly from DECAY_RANGE."""
    low, high = (math.log(step) for step in STEP_RANGE)
    step = torch.empty_like(dt_bias).uniform_(low, high).exp_()
    dt_bias.copy_(step + torch.log(-torch.expm1(-step)))
    A_log.copy_(torch.empty_like(A_log).uniform_(*DECAY_RANGE).log_())
