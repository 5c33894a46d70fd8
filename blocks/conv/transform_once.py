"""Transform Once: one cosine transform in, layers on the lowest modes, one back. Paper: arXiv:2211.14453.

X and Y are the modes along both axes.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]


class SpectralLayer(nn.Module):
    """z + W_2^T W_1^T act(sum_i z_i W_ch): channels mixed at each mode, then modes along each axis; only the lowest modes are mixed.

    (B, C, H, W) -> the same. Other modes pass with `keep_high`, and are 0 else. `ch_mixing_1` (C, C, X, Y), `spatial_mixing_1`
    (X, X, C), `spatial_mixing_2` (Y, Y, C).
    """

    def __init__(self, dim: int, modes: int, act: str, keep_high: bool):
        super().__init__()
        self.modes, self.act, self.keep_high = modes, act, keep_high
        self.ch_mixing_1 = nn.Parameter(torch.empty(dim, dim, modes, modes))
        self.spatial_mixing_1 = nn.Parameter(torch.empty(modes, modes, dim))
        self.spatial_mixing_2 = nn.Parameter(torch.empty(modes, modes, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Variances that keep that of the signal: 1 / C over channels, 1 / modes along an axis."""
        nn.init.normal_(self.ch_mixing_1, std=len(self.ch_mixing_1) ** -0.5)
        for weight in (self.spatial_mixing_1, self.spatial_mixing_2):
            nn.init.normal_(weight, std=self.modes**-0.5)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """C^2 X Y for the channels, C X Y (X + Y) for the modes."""
        B, C, H, W = shape
        x, y = min(self.modes, H), min(self.modes, W)
        return {"matmul": B * C * x * y * (C + x + y)}

    def forward(self, z: Tensor) -> Tensor:
        x, y = min(self.modes, z.shape[2]), min(self.modes, z.shape[3])
        low = z[:, :, :x, :y]
        a = torch.einsum("bixy,ioxy->boxy", low, self.ch_mixing_1[:, :, :x, :y])
        a = torch.sin(a) if self.act == "sin" else F.gelu(a)
        a = torch.einsum("bcxy,xvc->bcvy", a, self.spatial_mixing_1[:x, :x])
        a = torch.einsum("bcvy,ywc->bcvw", a, self.spatial_mixing_2[:y, :y]) + low
        rest = z if self.keep_high else torch.zeros_like(z)
        above = torch.cat([a, rest[:, :, :x, y:]], 3)
        return torch.cat([above, rest[:, :, x:]], 2)


@block(
    "transform_once",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2211.14453",
    covers=("t1",),
)
class TransformOnce(nn.Module):
    """y = D^-1 l_n(... l_1(D x)), D the orthonormal cosine transform (DCT-II) along both axes, l layers on the lowest modes.

    (B, C, H, W) -> the same shape. A layer l mixes channels at each of `modes` x `modes` modes, applies `act`, mixes the modes along each
    axis and adds what it was given; maps of fewer rows or columns have fewer modes. Modes above are 0 behind the last layer, or with
    `keep_high` pass as they are. Differs from upstream, where the last rows of the first columns are 0 even then.
    """

    def __init__(
        self,
        dim: int,
        *,
        modes: Count = 5,
        layers: Count = 1,
        act: Literal["sin", "gelu"] = "sin",
        keep_high: bool = False,
    ):
        super().__init__()
        self.layers = nn.Sequential(*(SpectralLayer(dim, modes, act, keep_high) for _ in range(layers)))

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The transform and its inverse: 2 (H + W) products for each value."""
        B, C, H, W = shape
        return {"matmul": 2 * B * C * H * W * (H + W)}

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (cosines(size, x.dtype, x.device) for size in x.shape[2:])
        z = self.layers(rows @ x @ columns.T)
        return (rows.T @ z @ columns).contiguous(memory_format=torch.channels_last)


def cosines(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, size) the orthonormal DCT-II: row k is the wave cos(pi k (2 n + 1) / (2 size))."""
    wide = torch.promote_types(dtype, torch.float32)
    n = torch.arange(size, device=device, dtype=wide)
    waves = torch.cos(math.pi / (2 * size) * n[:, None] * (2 * n + 1)) * math.sqrt(2 / size)
    return torch.cat([waves[:1] * math.sqrt(0.5), waves[1:]]).to(dtype)
