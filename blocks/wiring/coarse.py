"""Parts that run on a smaller map, whose output is enlarged again.

Paper: arXiv:2412.19628 (RecNeXt, where a mixer sees every second row and column).
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.folding import fold_neighbours
from blocks.registry import block
from blocks.wiring.parts import Parts, add_parts


@block(
    "coarse",
    kind="wiring",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2412.19628",
    covers=("recattn",),
)
class Coarse(nn.Module):
    """y = up(f(x)), where f runs the parts one after the other, of which one makes the map smaller, and up gives it the size of x.

    (B, C, H, W) -> the same size with the width of the last part.
    """

    def __init__(
        self,
        dim: int,
        *,
        parts: Annotated[Parts, Meta(min_length=1)],
        mode: Literal["nearest", "bilinear"] = "nearest",
    ):
        super().__init__()
        self.mode = mode
        self.out_dim = add_parts(self, parts, dim)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        y = x
        for part in self._modules.values():
            y = run(part, y, ctx)  # type: ignore[arg-type]
        return F.interpolate(y, size=x.shape[2:], mode=self.mode)

    def fuse(self) -> nn.Module:
        fold_neighbours(self, list(self._modules))
        return self
