"""Boxes whose defaults are shares of the picture, and classes beside which the ground stands: the heads of SSD, decoded.

Paper: arXiv:1512.02325, section 2.2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.heads.class_map import ClassMap
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(gt=0, le=1)]
FINEST = 0.1
"""The side of the one square that the finest level has, of the picture's."""


def default_sides(
    levels: int, least: float, most: float, ratios: Sequence[float], reduced: bool
) -> list[list[tuple[float, float]]]:
    """Of each level the (w, h) of its boxes, as shares of the picture's shorter side.

    s_k = least + (most - least) k / (levels - 1); a ratio r is (s_k sqrt(r), s_k / sqrt(r)), and behind the ratios stands a square of
    sqrt(s_k s_(k+1)), where the s behind the last is 1. A `reduced` finest level has three: a small square, and the ratios 2 and 1/2.
    """
    steps = [least + (most - least) * k / max(1, levels - 1) for k in range(levels)] + [1.0]
    pairs = list(itertools.pairwise(steps))
    shapes = [[*((side, ratio) for ratio in ratios), (math.sqrt(side * larger), 1.0)] for side, larger in pairs]
    if reduced:
        shapes[0] = [(FINEST, 1.0), (least, 2.0), (least, 0.5)]
    return [[(side * math.sqrt(ratio), side / math.sqrt(ratio)) for side, ratio in level] for level in shapes]


@block(
    "default_boxes",
    kind="merge",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:1512.02325",
)
class DefaultBoxes(nn.Module):
    """What is done to the default boxes of each pixel: y = v ty h + y_d, h = h_d exp(u th), alike for x and w; v, u = `variances`.

    n x (B, 4 A_i, H_i, W_i) with (ty, tx, th, tw) of the A_i boxes of a pixel, and the picture (B, C, H, W), whose size alone counts
    -> (B, 4, sum A_i H_i W_i) as x1, y1, x2, y2 in its pixels. A default stands in the middle of its pixel; `default_sides` says how
    large it is. Raises ValueError for levels of another width, and where the picture is missing.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        *,
        least: Share = 0.2,
        most: Share = 0.95,
        ratios: Annotated[tuple[Annotated[float, Meta(gt=0)], ...], Meta(min_length=1)] = (1.0, 2.0, 0.5, 3.0, 0.3333),
        reduced: bool = True,
        variances: tuple[float, float] = (0.1, 0.2),
    ):
        super().__init__()
        if len(dims) < 2:
            raise ValueError("levels and the picture are read; here comes one of them")
        self.sides = default_sides(len(dims) - 1, least, most, ratios, reduced)
        wanted = [4 * len(level) for level in self.sides]
        if list(dims[:-1]) != wanted:
            expected, found = (", ".join(map(str, widths)) for widths in (wanted, dims[:-1]))
            raise ValueError(f"levels of {expected} channels are decoded; here come {found}")
        self.variances, self.out_dim = variances, 4

    def macs(self, *shapes: tuple[int, ...]) -> dict[str, int]:
        """None that is counted: a few products for a box are element-wise work."""
        return {}

    def anchors(self, tensors: Sequence[Tensor]) -> Tensor:
        """(4, P): centre x, y, width, height of all defaults in pixels of the picture, the last of the tensors, in the order of the boxes."""
        found, (rows, columns) = [], tensors[-1].shape[2:]
        for level, shares in zip(tensors[:-1], self.sides, strict=True):
            H, W = level.shape[2:]
            y = (torch.arange(H, dtype=level.dtype, device=level.device) + 0.5) * rows / H
            x = (torch.arange(W, dtype=level.dtype, device=level.device) + 0.5) * columns / W
            middles = torch.stack((x.expand(H, W), y[:, None].expand(H, W)))[..., None].expand(-1, -1, -1, len(shares))
            sides = level.new_tensor(shares).T * min(rows, columns)  # (2, A)
            found.append(torch.cat((middles, sides[:, None, None].expand(-1, H, W, -1))).flatten(1))
        return torch.cat(found, 1)

    def forward(self, *tensors: Tensor) -> Tensor:
        moves = torch.cat(
            [
                level.unflatten(1, (len(shares), 4)).permute(0, 2, 3, 4, 1).flatten(2)
                for level, shares in zip(tensors[:-1], self.sides, strict=True)
            ],
            2,
        )
        shift, stretch = moves[:, [1, 0, 3, 2]].split(2, 1)  # x before y
        middles, sides = self.anchors(tensors).split(2)
        middles = shift * self.variances[0] * sides + middles
        halves = (stretch * self.variances[1]).exp() * sides / 2
        return torch.cat((middles - halves, middles + halves), 1)


@block("class_map_with_ground", kind="whole", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class ClassMapWithGround(ClassMap):
    """y = W * x + b, num_classes + 1 channels for each of `per` boxes at every pixel, of which the first is the ground.

    (B, C, H, W) -> (B, per * (num_classes + 1), H, W), as `class_map`.
    """

    def __init__(self, dim: int, *, num_classes: int, per: Count = 1):
        super().__init__(dim, num_classes=num_classes + 1, per=per)


@block("default_scores", kind="merge", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class DefaultScores(nn.Module):
    """The sigmoids of the boxes of each pixel, one box behind the other, row by row, level by level, without that of the ground.

    n x (B, per_i * (C + 1), H_i, W_i) -> (B, C, sum per_i H_i W_i). Raises ValueError for another number of levels, and for widths that
    are not those of one number of classes.
    """

    def __init__(
        self, dims: tuple[int, ...], *, per: Annotated[tuple[Count, ...], Meta(min_length=1)] = (3, 6, 6, 6, 6, 6)
    ):
        super().__init__()
        widths = {dim / boxes for dim, boxes in zip(dims, per, strict=False)}
        if len(dims) != len(per) or len(widths) > 1 or min(widths) % 1:
            raise ValueError(
                f"levels of {', '.join(map(str, dims))} channels are not those of {', '.join(map(str, per))} boxes"
            )
        self.per, self.out_dim = per, int(min(widths)) - 1

    def forward(self, *levels: Tensor) -> Tensor:
        rows = [
            level.unflatten(1, (boxes, self.out_dim + 1))[:, :, 1:].permute(0, 2, 3, 4, 1).flatten(2)
            for level, boxes in zip(levels, self.per, strict=True)
        ]
        return torch.cat(rows, 2).sigmoid()
