"""Mamba for clips: one projection, a scan along each of several routes through frames, rows and columns. Paper: arXiv:2401.14168 (Vivim).

The projection and the gate are those of Vision Mamba (arXiv:2401.09417), whose two directions are two of the routes. E is here the inner
width, R the number of routes.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.ops.selective_scan import selective_scan
from blocks.primitives.multi_scan import MultiScan, Route
from blocks.recurrent import depthwise
from blocks.registry import block
from blocks.registry.slots import Linear, slot
from blocks.ssm.mamba import Count, Expand, ScanInputs, StepProjection, conv_and_scan, reset_decay, scan_inputs


class Branch(nn.Module):
    """What one route has of its own: convolution, projections, A and D."""

    no_decay = ("A_log", "D")

    def __init__(self, hidden_dim: int, state_dim: int, kernel_size: int, dt_rank: int, conv_bias: bool):
        super().__init__()
        self.conv1d = depthwise(hidden_dim, kernel_size, conv_bias)
        self.x_proj = nn.Linear(hidden_dim, dt_rank + 2 * state_dim, bias=False)
        self.dt_proj = StepProjection(dt_rank, hidden_dim)
        self.A_log = nn.Parameter(torch.empty(hidden_dim, state_dim))
        self.D = nn.Parameter(torch.empty(hidden_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_decay(self.A_log, self.D)

    def inputs(self, u: Tensor) -> ScanInputs:
        """What the scan reads of the tokens u (B, L, E) along the route."""
        return scan_inputs(u.transpose(1, 2), self.conv1d, self.x_proj, self.dt_proj, self.A_log)


@block(
    "clip_mamba",
    kind="token_mixer",
    layout="BCTHW",
    abilities=("noncausal", "any_resolution", "3d"),
    paper="arXiv:2401.14168",
    covers=("vivim", "st_mamba"),
)
class ClipMamba(nn.Module):
    """[u | z] = W_in x; y = W_out(silu(z) mean_r back_r S_r(along_r u)), S_r the branch of `mamba` along route r, with weights of its own.

    (B, C, T, H, W) -> the same shape. Routes are those of `multi_scan`: "thw" goes through frame after frame, "hwt" follows each
    place through time. `dt_rank` is ceil(C / 16) without a value.
    """

    def __init__(
        self,
        dim: int,
        *,
        routes: Annotated[list[Route], Meta(min_length=1)] = ["thw", "thw_reversed", "hwt"],  # noqa: B006
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
        self.scan = MultiScan(routes=routes, merge="mean")
        self.branches = nn.ModuleList(Branch(hidden_dim, state_dim, kernel_size, dt_rank, conv_bias) for _ in routes)
        self.out_proj = linear(hidden_dim, dim, bias=bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        B, C, *size = shape
        works = [conv_and_scan((B, math.prod(size), C), branch.conv1d, branch.A_log) for branch in self._branches()]
        return {kind: sum(work[kind] for work in works) for kind in works[0]}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        size = tuple(x.shape[2:])
        u, z = run(self.in_proj, x.flatten(2).transpose(1, 2), ctx).chunk(2, -1)
        along, memo = self.scan.enter(u.unflatten(1, size).permute(0, 4, 1, 2, 3))
        scans = self._scanned(along.unflatten(0, (len(self.branches), -1)))
        y = self.scan.exit(scans.flatten(0, 1), memo).flatten(2).transpose(1, 2)
        y = run(self.out_proj, y * F.silu(z), ctx)
        return y.transpose(1, 2).unflatten(2, size)

    def _scanned(self, along: Tensor) -> Tensor:
        """(R, B, L, E) along the routes -> the same: all routes in one scan, as groups of channels."""
        parts = [branch.inputs(u) for branch, u in zip(self._branches(), along.unbind(0), strict=True)]
        y = selective_scan(
            _side_by_side([part.u for part in parts]),
            _side_by_side([part.delta for part in parts]),
            torch.cat([part.A for part in parts]),
            torch.stack([part.B for part in parts], 1),
            torch.stack([part.C for part in parts], 1),
            D=torch.cat([branch.D for branch in self._branches()]),
            delta_softplus=True,
        )
        return y.transpose(1, 2).unflatten(2, (len(parts), -1)).movedim(2, 0)  # type: ignore[union-attr]

    def _branches(self) -> list[Branch]:
        return list(self.branches)  # type: ignore[arg-type]


def _side_by_side(streams: list[Tensor]) -> Tensor:
    """R x (B, E, L) -> (B, R * E, L), with channels side by side in memory."""
    return torch.cat([stream.transpose(1, 2) for stream in streams], -1).transpose(1, 2)
