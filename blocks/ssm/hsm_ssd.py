"""EfficientViM's mixer: a few hidden states gather the whole map, are mixed among their channels, and are read out again.

Paper: arXiv:2411.15241. Upstream: mlvlab/EfficientViM (MIT). Differs from upstream: rows and columns may differ in number.
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
from blocks.conv.conv import Conv
from blocks.registry import block
from blocks.registry.slots import Linear, slot

A_RANGE = (1.0, 16.0)
"""Between these values A is drawn at first."""


@block(
    "hsm_ssd",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2411.15241",
    covers=("hidden_state_mixer", "efficientvim"),
)
class HsmSsd(nn.Module):
    """y = c h, h = W_o(u * (silu(z) + D)), [u | z] = W_hz (softmax_L(dt + A) * b)^T x, [b | c | dt] = DW_k(W_bcdt x).

    (B, C, H, W) -> (B, C, H, W). With L = H * W positions and N = `state_dim` states, b, c and dt are (B, L, N) and h is
    (B, N, C); u and z are int(expand * C) wide. What depends on C^2 is paid per state, not per position. `writes` names
    the slot of ctx in which h is left for a later block. A cancels in the softmax over positions: published weights hold
    it, and `fuse()` drops it.
    """

    path = ""
    no_decay = ("D",)
    A: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        *,
        state_dim: Annotated[int, Meta(ge=1)] = 64,
        expand: Annotated[float, Meta(gt=0)] = 1.0,
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 3,
        writes: Annotated[str, Meta(min_length=1)] | None = None,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        self.writes, self.state_dim = writes, state_dim
        inner, width = int(expand * dim), 3 * state_dim
        self.bcdt_proj = linear(dim, width, bias=False)
        self.conv = Conv(width, kernel_size=kernel_size, groups=width, bias=False)
        self.hz_proj = linear(dim, 2 * inner, bias=False)
        self.out_proj = linear(inner, dim, bias=False)
        self.A = nn.Parameter(torch.empty(state_dim))
        self.D = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.A is not None:
            nn.init.uniform_(self.A, *A_RANGE)
        nn.init.ones_(self.D)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Into the hidden states and back: 2 H W state_dim C."""
        return {"matmul": 2 * math.prod(shape) * self.state_dim}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        B, C, H, W = x.shape
        bcdt = self.conv(run(self.bcdt_proj, x, ctx))
        b, c, dt = bcdt.permute(0, 2, 3, 1).flatten(1, 2).chunk(3, -1)
        gathered = (dt if self.A is None else dt + self.A).softmax(1) * b
        h = torch.bmm(gathered.transpose(1, 2), x.permute(0, 2, 3, 1).reshape(B, H * W, C))
        u, z = run(self.hz_proj, h, ctx).chunk(2, -1)
        h = run(self.out_proj, u * (F.silu(z) + self.D), ctx)
        if ctx is not None and self.writes is not None:
            ctx.write(self.writes, self.path, h)
        return torch.bmm(c, h).view(B, H, W, C).permute(0, 3, 1, 2)

    def fuse(self) -> nn.Module:
        self.A = None
        return self
