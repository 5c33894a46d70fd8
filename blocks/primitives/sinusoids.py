"""Numbers as waves: times of diffusion as vectors. Paper: arXiv:1706.03762, of times arXiv:2006.11239."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block


@block(
    "sinusoids",
    kind="embed",
    layout="BLC",
    abilities=("causal", "noncausal", "any_resolution", "1d"),
    paper="arXiv:2006.11239",
    covers=("timestep_embedding",),
)
class Sinusoids(nn.Module):
    """y = [cos(w_i x), sin(w_i x)], w_i = period^(-2 i / width), of each number x.

    (B, L, C) -> (B, L, width C). Angles are in float32 at least. Raises ValueError for an odd width.
    """

    def __init__(
        self,
        dim: int,
        *,
        width: Annotated[int, Meta(ge=2, le=65536)] = 256,
        period: Annotated[float, Meta(gt=1)] = 10000.0,
    ):
        super().__init__()
        if width % 2:
            raise ValueError(f"waves come as cosine and sine, and {width} is odd; {width + 1} would do")
        self.width, self.period, self.out_dim = width, period, width * dim

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        step = -2 * math.log(self.period) / self.width
        angles = x.to(wide).unsqueeze(-1) * torch.arange(self.width // 2, device=x.device, dtype=wide).mul(step).exp()
        return torch.cat([angles.cos(), angles.sin()], -1).flatten(2).to(x.dtype)
