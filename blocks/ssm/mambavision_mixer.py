"""MambaVision's mixer: half of the channels go through a selective scan, the other half round it.

Paper: arXiv:2407.08083 (figure 3). Upstream: NVlabs/MambaVision (NVIDIA Source Code License-NC); this code is our own.
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
from blocks.places import refuse_places
from blocks.recurrent import depthwise
from blocks.registry import block
from blocks.registry.slots import Linear, slot
from blocks.ssm.mamba import StepProjection, convolved_inputs, reset_decay, scan_work

Count = Annotated[int, Meta(ge=1)]


@block(
    "mambavision_mixer",
    kind="token_mixer",
    layout="BLC",
    abilities=("any_resolution",),
    paper="arXiv:2407.08083",
    covers=("mambavision",),
)
class MambaVisionMixer(nn.Module):
    """[u | z] = W_in x; y = W_out [scan(silu(conv_x u)) | silu(conv_z z)], with the scan of `mamba`.

    (B, L, C) -> (B, L, C). The step's bias counts twice, delta = softplus(W_dt r + 2 b): upstream adds it in the layer and
    again in the scan, and its weights are trained to that. The convolutions see both sides; the scan goes forward only, so that attention in later
    layers has to bring back what lies ahead. `dt_rank` is ceil(C / 16) without a value. Raises ValueError for an odd
    width, and for an even kernel, which has no centre.
    """

    no_decay = ("A_log", "D")

    def __init__(
        self,
        dim: int,
        *,
        state_dim: Count = 8,
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 3,
        dt_rank: Count | None = None,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        if dim % 2:
            raise ValueError(f"a width of {dim} has no two halves; the nearest that has is {dim + 1}")
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        half, dt_rank = dim // 2, dt_rank or math.ceil(dim / 16)
        self.in_proj = linear(dim, dim, bias=False)
        self.conv1d_x = depthwise(half, kernel_size, bias=False)
        self.conv1d_z = depthwise(half, kernel_size, bias=False)
        self.x_proj = nn.Linear(half, dt_rank + 2 * state_dim, bias=False)
        self.dt_proj = StepProjection(dt_rank, half)
        self.A_log = nn.Parameter(torch.empty(half, state_dim))
        self.D = nn.Parameter(torch.empty(half))
        self.out_proj = linear(dim, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_decay(self.A_log, self.D)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Two convolutions of half the channels that keep the length, and the scan of one half."""
        B, L, _ = shape
        taps = self.conv1d_x.weight.numel() + self.conv1d_z.weight.numel()
        return {"convolution": B * L * taps, "scan": scan_work(B, L, self.A_log)}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_places(self, ctx)
        u, z = run(self.in_proj, x, ctx).transpose(1, 2).chunk(2, 1)
        u, z = self._convolved(u, self.conv1d_x), self._convolved(z, self.conv1d_z)
        inputs = convolved_inputs(u, self.x_proj, self.dt_proj, self.A_log)
        y = selective_scan(*inputs, D=self.D, delta_bias=self.dt_proj.bias, delta_softplus=True)
        return run(self.out_proj, torch.cat([y.to(z.dtype), z], 1).transpose(1, 2), ctx)

    @staticmethod
    def _convolved(x: Tensor, conv1d: nn.Conv1d) -> Tensor:
        """silu of the convolution that keeps the length, which torch refuses for no tokens."""
        if not x.shape[-1]:
            return x
        return F.silu(F.conv1d(x, conv1d.weight, padding=conv1d.kernel_size[0] // 2, groups=x.shape[1]))

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.out_proj.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.in_proj.absorb_input(scale, shift))  # type: ignore[operator]
