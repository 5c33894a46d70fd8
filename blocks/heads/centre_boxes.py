"""Boxes and scores of a detector that tells of every pixel whether a thing has its middle there, and how large it is.

Paper: arXiv:1904.07850, section 4.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.heads.boxes import ScoreList, centres
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]


@block(
    "centre_boxes",
    kind="merge",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:1904.07850",
)
class CentreBoxes(nn.Module):
    """x1, x2 = stride * (x + dx -+ w / 2), alike for y: the boxes whose middle a pixel (x, y) has.

    Sizes w, h and offsets dx, dy of K boxes at each pixel of a map, both (B, 2 K, H, W) -> (B, 4, K H W) as x1, y1, x2, y2 in pixels of
    the picture, row by row, one of the K behind the other. Raises ValueError for maps of another number, and of widths that differ or are
    odd.
    """

    def __init__(self, dims: tuple[int, ...], *, stride: Count = 4):
        super().__init__()
        if len(dims) != 2 or dims[0] != dims[1] or dims[0] % 2:
            raise ValueError(
                f"two maps of as many channels are decoded, sizes and offsets; here come {', '.join(map(str, dims))}"
            )
        self.stride, self.out_dim = stride, 4

    def macs(self, *shapes: tuple[int, ...]) -> dict[str, int]:
        """None that is counted: the sums and products of four sides are element-wise work."""
        return {}

    def forward(self, sizes: Tensor, offsets: Tensor) -> Tensor:
        points, _ = centres([sizes], [self.stride], 0.0)  # (2, H W)
        middles, halves = (x.flatten(2).unflatten(1, (-1, 2)) for x in (offsets, sizes / 2))  # (B, K, 2, H W)
        sides = (points + middles - halves, points + middles + halves)
        return torch.cat([side.transpose(1, 2).flatten(2) for side in sides], 1) * self.stride


@block(
    "peak_scores",
    kind="merge",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:1904.07850",
)
class PeakScores(ScoreList):
    """The sigmoids of a class at the pixels where it is the largest of the 2 r + 1 rows and columns around them, 0 at the others.

    n x (B, C, H_i, W_i) -> (B, C, sum H_i W_i), row by row, level by level. Raises ValueError for levels of several widths.
    """

    suppressed = True

    def __init__(self, dims: tuple[int, ...], *, radius: Annotated[int, Meta(ge=1, le=31)] = 1):
        super().__init__(dims)
        self.radius = radius

    def forward(self, *levels: Tensor) -> Tensor:
        return super().forward(*(self._peaks(level) for level in levels))

    def _peaks(self, x: Tensor) -> Tensor:
        if type(x) is Tensor and not x.numel():
            return x
        highest = F.max_pool2d(x, 2 * self.radius + 1, 1, self.radius)
        return torch.where(x == highest, x, -torch.inf)
