"""Parts that run on a smaller map between a convolution and a deconvolution of each channel.

Paper: arXiv:1608.04337.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.conv.conv import conv2d
from blocks.folding import fold_neighbours
from blocks.registry import block
from blocks.wiring.parts import Parts, add_parts


@block(
    "spatial_bottleneck",
    kind="wiring",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:1608.04337",
    covers=("convolution_projection_deconvolution",),
)
class SpatialBottleneck(nn.Module):
    """y = up(f(down x)), where f runs the parts one after the other; down and up cut every channel into cells of `stride` x `stride` pixels.

    (B, C, H, W) -> the same size with the width of the last part. down is a depthwise convolution that makes a cell one number, up its
    transpose, which makes a number a cell. What is missing to whole cells, below and to the right, is zero, and is cut off again.
    """

    def __init__(
        self,
        dim: int,
        *,
        parts: Annotated[Parts, Meta(min_length=1)],
        stride: Annotated[int, Meta(ge=2, le=31)] = 2,
    ):
        super().__init__()
        self.stride = stride
        self.out_dim = add_parts(self, parts, dim)
        self.down = conv2d(dim, dim, stride, stride=stride, groups=dim)
        self.up = nn.ConvTranspose2d(self.out_dim, self.out_dim, stride, stride, groups=self.out_dim)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        H, W = x.shape[2:]
        bottom, right = -H % self.stride, -W % self.stride
        y = self.down(F.pad(x, (0, right, 0, bottom)) if bottom or right else x)
        for name in self._parts():
            y = run(self._modules[name], y, ctx)  # type: ignore[arg-type]
        return self.up(y)[..., :H, :W]  # type: ignore[no-any-return]

    def fuse(self) -> nn.Module:
        fold_neighbours(self, self._parts())
        return self

    def _parts(self) -> list[str]:
        return [name for name in self._modules if name not in ("down", "up")]
