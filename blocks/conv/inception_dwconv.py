"""InceptionNeXt's mixer: most channels pass, the others go through a square and two band kernels.

Paper: arXiv:2303.16900. Upstream: sail-sg/inceptionnext (Apache-2.0).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.conv.conv import conv2d
from blocks.registry import block

Odd = Annotated[int, Meta(ge=1, le=63)]


@block(
    "inception_dwconv",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2303.16900",
    covers=("inceptionnext",),
)
class InceptionDwconv(nn.Module):
    """y = cat(x_0, DW_{s x s} x_1, DW_{1 x b} x_2, DW_{b x 1} x_3): a square kernel, a row and a column.

    (B, C, H, W) -> (B, C, H, W), where x_1, x_2 and x_3 are the last int(ratio * C) channels each. Raises ValueError
    for even kernels, which have no centre, and when the branches get no channel or more than there are.
    """

    def __init__(
        self,
        dim: int,
        *,
        ratio: Annotated[float, Meta(gt=0, le=1)] = 0.125,
        square_kernel: Odd = 3,
        band_kernel: Odd = 11,
        bias: bool = True,
        dilation: Annotated[int, Meta(ge=1, extra_json_schema={"added": "0.1"})] = 1,
    ):
        super().__init__()
        for size in (square_kernel, band_kernel):
            if size % 2 == 0:
                raise ValueError(f"a kernel of {size} has no centre; the nearest that has is {size + 1}")
        width = int(dim * ratio)
        if not 0 < 3 * width <= dim:
            raise ValueError(
                f"ratio {ratio:g} of {dim} channels gives three branches {width} channels each; "
                f"take a ratio from {1 / dim:.3g} to {1 / 3:.3g}"
            )
        self.widths = [dim - 3 * width, width, width, width]
        self.square = _depthwise(width, (square_kernel, square_kernel), dilation, bias)
        self.row = _depthwise(width, (1, band_kernel), dilation, bias)
        self.column = _depthwise(width, (band_kernel, 1), dilation, bias)

    def forward(self, x: Tensor) -> Tensor:
        passed, square, row, column = x.split(self.widths, dim=1)
        return torch.cat((passed, self.square(square), self.row(row), self.column(column)), dim=1)


def _depthwise(dim: int, kernel: tuple[int, int], dilation: int, bias: bool) -> nn.Conv2d:
    padding = (dilation * (kernel[0] // 2), dilation * (kernel[1] // 2))
    return conv2d(dim, dim, kernel, padding=padding, dilation=dilation, groups=dim, bias=bias)
