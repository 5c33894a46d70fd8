"""RecNeXt's convolution over several sizes of a map: down by one kernel again and again, and up by sums.

Paper: arXiv:2412.19628. Upstream: suous/RecNeXt (Apache-2.0).
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.conv.conv import conv2d
from blocks.registry import block


@block(
    "recursive_conv",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2412.19628",
    covers=("recconv", "recnext"),
)
class RecursiveConv(nn.Module):
    """x_0 = x, x_l = D x_(l-1); u_L = W_L x_L, u_l = W_l (x_l + up u_(l+1)); y = u_0.  (algorithm 1)

    (B, C, H, W) -> (B, C, H, W). D, which is the same at every level, and the W_l are depthwise k x k; D halves rows and columns, rounded
    up, and `up` enlarges to the size of the level above. The receptive field is k 2^levels. Raises ValueError for an even kernel.
    """

    def __init__(
        self,
        dim: int,
        *,
        levels: Annotated[int, Meta(ge=1, le=12)] = 2,
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 5,
        mode: Literal["bilinear", "nearest"] = "bilinear",
        bias: bool = False,
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        self.levels, self.mode, padding = levels, mode, kernel_size // 2
        self.down = conv2d(dim, dim, kernel_size, stride=2, padding=padding, groups=dim, bias=bias)
        self.convs = nn.ModuleList(
            conv2d(dim, dim, kernel_size, padding=padding, groups=dim, bias=bias) for _ in range(levels + 1)
        )  # the coarsest first

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for _ in range(self.levels):
            maps.append(self.down(maps[-1]))
        y = self.convs[0](maps.pop())
        for conv in list(self.convs)[1:]:
            finer = maps.pop()
            y = conv(finer + F.interpolate(y, size=finer.shape[2:], mode=self.mode))
        return y
