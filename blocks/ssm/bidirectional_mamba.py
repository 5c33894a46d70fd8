"""Bidirectional Mamba: two scans, one in each direction, behind one projection. Paper: Vision Mamba, arXiv:2401.09417.

Names of the state are those of hustvl/Vim (Apache-2.0), version 2 of its mixer. E is here the inner width. Differs from
upstream: both directions go through one scan, as two groups of channels, and the gate, which they share, is applied
once to their sum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.ops.masks import refuse_state, token_mask
from blocks.ops.selective_scan import selective_scan
from blocks.recurrent import depthwise
from blocks.registry import block
from blocks.registry.slots import Linear, slot
from blocks.ssm.mamba import Count, Expand, StepProjection, conv_and_scan, reset_decay, scan_inputs, without_padding


@block(
    "bidirectional_mamba",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2401.09417",
    covers=("vision_mamba", "vim"),
)
class BidirectionalMamba(nn.Module):
    """[u | z] = W_in x; y = W_out((S(u) + flip S_b(flip u)) silu(z) / 2), S and S_b the branches of `mamba`.

    (B, L, C) -> (B, L, C). Each direction has its own convolution, projections, A and D (`*_b` for the second);
    `ctx.mask` keeps padding out. Raises ValueError for packed sequences and for a state to continue.
    """

    no_decay = ("A_log", "A_b_log", "D", "D_b")

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
        self.conv1d_b = depthwise(hidden_dim, kernel_size, conv_bias)
        self.x_proj = nn.Linear(hidden_dim, dt_rank + 2 * state_dim, bias=False)
        self.x_proj_b = nn.Linear(hidden_dim, dt_rank + 2 * state_dim, bias=False)
        self.dt_proj = StepProjection(dt_rank, hidden_dim)
        self.dt_proj_b = StepProjection(dt_rank, hidden_dim)
        self.A_log = nn.Parameter(torch.empty(hidden_dim, state_dim))
        self.A_b_log = nn.Parameter(torch.empty(hidden_dim, state_dim))
        self.D = nn.Parameter(torch.empty(hidden_dim))
        self.D_b = nn.Parameter(torch.empty(hidden_dim))
        self.out_proj = linear(hidden_dim, dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_decay(self.A_log, self.D)
        reset_decay(self.A_b_log, self.D_b)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        ahead, back = conv_and_scan(shape, self.conv1d, self.A_log), conv_and_scan(shape, self.conv1d_b, self.A_b_log)
        return {kind: ahead[kind] + back[kind] for kind in ahead}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "bidirectional_mamba sees the future; `mamba` does not")
        mask = token_mask(x, ctx)
        u, z = run(self.in_proj, x, ctx).transpose(1, 2).chunk(2, 1)
        u = without_padding(u, mask)
        ahead = scan_inputs(u, self.conv1d, self.x_proj, self.dt_proj, self.A_log, mask)
        mask_b = None if mask is None else mask.flip(-1)
        back = scan_inputs(backwards(u), self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, mask_b)
        y = selective_scan(
            side_by_side(ahead.u, back.u),
            side_by_side(ahead.delta, back.delta),
            torch.cat([ahead.A, back.A]),
            torch.stack([ahead.B, back.B], 1),
            torch.stack([ahead.C, back.C], 1),
            D=torch.cat([self.D, self.D_b]),
            delta_softplus=True,
        )
        y_there, y_back = y.chunk(2, 1)  # type: ignore[union-attr]
        y = (y_there + backwards(y_back)) * (F.silu(z) / 2)
        return run(self.out_proj, y.transpose(1, 2), ctx)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.out_proj.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.in_proj.absorb_input(scale, shift))  # type: ignore[operator]


def backwards(x: Tensor) -> Tensor:
    """x (B, E, L) from its last step to its first, with channels side by side in memory."""
    return x.transpose(1, 2).flip(1).transpose(1, 2)


def side_by_side(x: Tensor, y: Tensor) -> Tensor:
    """(B, E, L) twice -> (B, 2E, L), with channels side by side in memory."""
    return torch.cat([x.transpose(1, 2), y.transpose(1, 2)], -1).transpose(1, 2)
