"""The selective scan alone, there and back, for nets that convolve and gate around it. Paper: arXiv:2403.19888 (MambaMixer, section 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from blocks.context import Context
from blocks.ops.masks import refuse_state, token_mask
from blocks.ops.selective_scan import selective_scan
from blocks.registry import block
from blocks.ssm.mamba import Count, StepProjection, convolved_inputs, reset_decay, scan_work


class Scan(nn.Module):
    """y = scan(u, delta, A, B, C) + D u along u (B, C, L), with [r | B | C] = W_x u, delta = softplus(W_dt r + b), A = -exp(A_log)."""

    no_decay = ("A_log", "D")

    def __init__(self, dim: int, state_dim: int, dt_rank: int):
        super().__init__()
        self.x_proj = nn.Linear(dim, dt_rank + 2 * state_dim, bias=False)
        self.dt_proj = StepProjection(dt_rank, dim)
        self.A_log = nn.Parameter(torch.empty(dim, state_dim))
        self.D = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_decay(self.A_log, self.D)

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        inputs = convolved_inputs(u, self.x_proj, self.dt_proj, self.A_log, mask)
        y: Tensor = selective_scan(*inputs, D=self.D, delta_softplus=True)  # type: ignore[assignment]
        return y


@block(
    "bidirectional_scan",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal", "any_resolution", "1d"),
    paper="arXiv:2403.19888",
    covers=("s6", "bidirectional_s6"),
)
class BidirectionalScan(nn.Module):
    """y = S(x) + flip S_b(flip x), S and S_b the scans of `mamba` with weights of their own, and nothing around them.

    (B, L, C) -> (B, L, C). `dt_rank` is ceil(C / 16) without a value; `ctx.mask` keeps padding out. Raises ValueError for packed
    sequences and for a state to continue.
    """

    def __init__(self, dim: int, *, state_dim: Count = 16, dt_rank: Count | None = None):
        super().__init__()
        self.ahead, self.back = (Scan(dim, state_dim, dt_rank or math.ceil(dim / 16)) for _ in range(2))

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        B, L, _ = shape
        return {"scan": scan_work(B, L, self.ahead.A_log) + scan_work(B, L, self.back.A_log)}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "bidirectional_scan sees the future; `mamba` does not")
        mask = token_mask(x, ctx)
        if mask is not None:
            x = x * mask.unsqueeze(-1)
        there = self.ahead(x.transpose(1, 2), mask)
        back = self.back(x.flip(1).transpose(1, 2), None if mask is None else mask.flip(-1))
        return there.transpose(1, 2) + back.transpose(1, 2).flip(1)
