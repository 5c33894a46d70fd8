"""VMamba's selective scan of images: four routes through the map, each with its own projections. Paper: arXiv:2401.10166.

Upstream: MzeroMiko/VMamba (MIT), its form without a gate. E = expand * C is here the inner width, K the number of routes, N the size of a
channel's state, R the length of what step sizes are made of.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.conv.conv import conv2d
from blocks.ops.selective_scan import selective_scan
from blocks.primitives.views import along_route, back_from_route, merged
from blocks.registry import block
from blocks.registry.slots import Linear, Norm, slot
from blocks.ssm.mamba import Count, Expand, reset_decay, reset_steps, scan_work

ROUTES = ("row", "column", "row_reversed", "column_reversed")


@block(
    "ss2d",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2401.10166",
    covers=("vmamba", "vss"),
)
class SS2D(nn.Module):
    """y = W_out norm(sum_k back_k S_k(along_k u)), u = silu(DW W_in x), S_k the scan of `mamba` along route k with weights of its own.

    (B, C, H, W) -> (B, C, H, W). The routes go through the map by rows and by columns, there and back. `dt_rank` is ceil(C / 16) without
    a value; `kernel_size` is that of DW.
    """

    no_decay = ("A_log", "D")

    def __init__(
        self,
        dim: int,
        *,
        expand: Expand = 2.0,
        state_dim: Count = 1,
        kernel_size: Count = 3,
        dt_rank: Count | None = None,
        conv_bias: bool = False,
        norm: Norm | None = slot("layer_norm", eps=1e-5),
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        hidden_dim, routes = int(expand * dim), len(ROUTES)
        self.state_dim, self.dt_rank = state_dim, dt_rank or math.ceil(dim / 16)
        self.in_proj = linear(dim, hidden_dim, bias=False)
        self.conv = conv2d(
            hidden_dim, hidden_dim, kernel_size, padding=kernel_size // 2, groups=hidden_dim, bias=conv_bias
        )
        self.x_proj = nn.Parameter(torch.empty(routes, self.dt_rank + 2 * state_dim, hidden_dim))
        self.dt_proj = nn.Parameter(torch.empty(routes, hidden_dim, self.dt_rank))
        self.dt_bias = nn.Parameter(torch.empty(routes, hidden_dim))
        self.A_log = nn.Parameter(torch.empty(routes * hidden_dim, state_dim))
        self.D = nn.Parameter(torch.empty(routes * hidden_dim))
        self.norm = norm(hidden_dim) if norm else None
        self.out_proj = linear(hidden_dim, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = self.x_proj.shape[-1] ** -0.5
        nn.init.uniform_(self.x_proj, -bound, bound)
        reset_steps(self.dt_proj, self.dt_bias)
        reset_decay(self.A_log, self.D)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """K L E (2 R + 2 N) of the projections along the routes, and the scans."""
        B, _, H, W = shape
        projected = self.x_proj.numel() + self.dt_proj.numel()
        return {"matmul": B * H * W * projected, "scan": scan_work(B, H * W, self.A_log)}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        u = F.silu(self.conv(run(self.in_proj, x, ctx)))
        y = self._scanned(u)
        if self.norm is not None:
            y = run(self.norm, y, ctx)
        return run(self.out_proj, y, ctx)

    def _scanned(self, u: Tensor) -> Tensor:
        """u (B, E, H, W) along all routes, scanned, and the sum of what comes back."""
        image, size = u.permute(0, 2, 3, 1), tuple(u.shape[2:])
        along = torch.stack([along_route(image, route) for route in ROUTES])  # (K, B, L, E)
        inputs = torch.einsum("kble,kre->kblr", along, self.x_proj)
        step, B, C = inputs.split([self.dt_rank, self.state_dim, self.state_dim], -1)
        delta = torch.einsum("kblr,ker->kble", step, self.dt_proj)
        y = selective_scan(
            _side_by_side(along),
            _side_by_side(delta),
            -torch.exp(self.A_log.to(torch.promote_types(u.dtype, torch.float32))),
            B.permute(1, 0, 3, 2),
            C.permute(1, 0, 3, 2),
            D=self.D,
            delta_bias=self.dt_bias.flatten(),
            delta_softplus=True,
        )
        scans = y.transpose(1, 2).unflatten(2, (len(ROUTES), -1)).unbind(2)  # type: ignore[union-attr]
        back = [back_from_route(scan, route, size) for scan, route in zip(scans, ROUTES, strict=True)]
        return merged(back, "sum").permute(0, 3, 1, 2)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.out_proj.absorb_output(scale, shift))  # type: ignore[operator]


def _side_by_side(routes: Tensor) -> Tensor:
    """(K, B, L, E) -> (B, K * E, L), with channels side by side in memory."""
    return routes.permute(1, 2, 0, 3).flatten(2).transpose(1, 2)
