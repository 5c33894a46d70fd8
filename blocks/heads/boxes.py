"""Boxes and scores of all levels of a detector as two lists: the decoding of heads with anchors and without.

Papers: arXiv:2006.04388 (a side of a box as a distribution over bins), arXiv:1506.01497 (a box as what is done to an anchor). Taking the
best and leaving out doubles comes behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]
Added = Annotated[bool, Meta(extra_json_schema={"added": "0.1"})]


def centres(levels: Sequence[Tensor], strides: Sequence[int], offset: float) -> tuple[Tensor, Tensor]:
    """((2, P) x and y of each pixel of all levels in pixels of its own level, (P,) its stride), row by row, level by level."""
    points, steps = [], []
    for level, stride in zip(levels, strides, strict=True):
        H, W = level.shape[2:]
        y = torch.arange(H, dtype=level.dtype, device=level.device) + offset
        x = torch.arange(W, dtype=level.dtype, device=level.device) + offset
        points.append(torch.stack((x.expand(H, W), y[:, None].expand(H, W))).flatten(1))
        steps.append(level.new_full((H * W,), stride))
    return torch.cat(points, 1), torch.cat(steps)


@block(
    "box_decoder",
    kind="merge",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2006.04388",
)
class BoxDecoder(nn.Module):
    """Distances to the four sides, each the mean of its bins under softmax of its logits, in strides, as boxes around the pixels.

    n x (B, 4 * bins, H_i, W_i) -> (B, 4, sum H_i W_i) as centre x, y, width, height in pixels of the picture, or with `corners` as x1, y1, x2,
    y2; with `rows` (B, sum H_i W_i, 4). `offset` is where in its pixel a box has its point. `bins` holds 0, 1, …, which nobody trains: a
    parameter, or a buffer.
    """

    bins: Tensor

    def __init__(
        self,
        dims: tuple[int, ...],
        *,
        strides: Annotated[tuple[Count, ...], Meta(min_length=1)],
        bins: Annotated[int, Meta(ge=2, le=256)] = 16,
        offset: float = 0.5,
        corners: bool = False,
        rows: Added = False,
        buffer: Added = False,
    ):
        super().__init__()
        if len(dims) != len(strides) or any(dim != 4 * bins for dim in dims):
            raise ValueError(
                f"{len(strides)} levels of {4 * bins} channels are decoded; here come {', '.join(map(str, dims))}"
            )
        self.strides, self.offset, self.corners, self.rows, self.out_dim = strides, offset, corners, rows, 4
        numbers = torch.empty(1, bins, 1, 1)
        if buffer:
            self.register_buffer("bins", numbers)
        else:
            self.bins = nn.Parameter(numbers, requires_grad=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.bins.copy_(torch.arange(self.bins.shape[1]).view(1, -1, 1, 1))

    def macs(self, *shapes: tuple[int, ...]) -> dict[str, int]:
        """None that is counted: means of so few bins are element-wise work."""
        return {}

    def forward(self, *levels: Tensor) -> Tensor:
        logits = torch.cat([level.flatten(2) for level in levels], 2).unflatten(1, (4, -1))  # (B, 4, bins, P)
        distances = (logits.softmax(2) * self.bins.view(1, 1, -1, 1)).sum(2)
        points, steps = centres(levels, self.strides, self.offset)
        first, last = points - distances[:, :2], points + distances[:, 2:]
        sides = (first, last) if self.corners else ((first + last) / 2, last - first)
        boxes = torch.cat(sides, 1) * steps
        return boxes.transpose(1, 2) if self.rows else boxes


@block(
    "anchor_boxes",
    kind="merge",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:1506.01497",
)
class AnchorBoxes(nn.Module):
    """What is done to the anchors of each pixel, as boxes: (ty, tx, th, tw) moves an anchor by shares of its sides and stretches these.

    n x (B, 4 * A, H_i, W_i) -> (B, 4, sum H_i W_i A) as centre x, y, width, height in pixels of the picture, or with `corners` as x1, y1, x2,
    y2: y = ty h_a + y_a, h = exp(th) h_a, alike for x and w. A pixel has A = len(scales) * len(ratios) anchors, for each scale all
    ratios; one is `size` strides times a scale times a ratio (of width, of height), and stands in the middle of its pixel. Raises ValueError for
    levels of another number or width.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        *,
        strides: Annotated[tuple[Count, ...], Meta(min_length=1)],
        size: Annotated[float, Meta(gt=0)] = 4.0,
        scales: Annotated[tuple[float, ...], Meta(min_length=1)] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3)),
        ratios: Annotated[tuple[tuple[float, float], ...], Meta(min_length=1)] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4)),
        corners: bool = False,
    ):
        super().__init__()
        self.strides, self.corners, self.out_dim = strides, corners, 4
        self.sides = [(size * scale * w, size * scale * h) for scale in scales for w, h in ratios]
        wanted = 4 * len(self.sides)
        if len(dims) != len(strides) or any(dim != wanted for dim in dims):
            raise ValueError(
                f"{len(strides)} levels of {wanted} channels are decoded; here come {', '.join(map(str, dims))}"
            )

    def macs(self, *shapes: tuple[int, ...]) -> dict[str, int]:
        """None that is counted: four products for a box are element-wise work."""
        return {}

    def anchors(self, levels: Sequence[Tensor]) -> Tensor:
        """(4, P): centre x, y, width, height of all anchors in pixels of the picture, in the order of the boxes."""
        points, steps = centres(levels, self.strides, 0.5)
        sides = points.new_tensor(self.sides).T  # (2, A)
        middles = (points * steps)[:, :, None].expand(-1, -1, len(self.sides))
        return torch.cat((middles, sides[:, None] * steps[:, None]), 0).flatten(1)

    def forward(self, *levels: Tensor) -> Tensor:
        moves = torch.cat([level.unflatten(1, (-1, 4)).permute(0, 2, 3, 4, 1).flatten(2) for level in levels], 2)
        shift, stretch = moves[:, [1, 0, 3, 2]].split(2, 1)  # x before y
        middles, sides = self.anchors(levels).split(2)
        middles, sides = shift * sides + middles, stretch.exp() * sides
        return torch.cat((middles - sides / 2, middles + sides / 2) if self.corners else (middles, sides), 1)


@block("score_list", kind="merge", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class ScoreList(nn.Module):
    """The sigmoids of all pixels of all levels, row by row, level by level.

    n x (B, C, H_i, W_i) -> (B, C, sum H_i W_i), or with `rows` (B, sum H_i W_i, C). Raises ValueError for levels of several widths.
    """

    def __init__(self, dims: tuple[int, ...], *, rows: Added = False):
        super().__init__()
        if len(set(dims)) > 1:
            raise ValueError(f"levels of {', '.join(map(str, dims))} channels do not tell the same classes apart")
        self.out_dim, self.rows = dims[0], rows

    def forward(self, *levels: Tensor) -> Tensor:
        scores = torch.cat([level.flatten(2) for level in levels], 2).sigmoid()
        return scores.transpose(1, 2) if self.rows else scores


@block("anchor_scores", kind="merge", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class AnchorScores(ScoreList):
    """The sigmoids of the `per` anchors of each pixel, one anchor behind the other, row by row, level by level.

    n x (B, per * C, H_i, W_i) -> (B, C, per * sum H_i W_i). Raises ValueError for levels of several widths, and for one that `per` does
    not divide.
    """

    def __init__(self, dims: tuple[int, ...], *, per: Count):
        super().__init__(dims)
        if self.out_dim % per:
            raise ValueError(f"{self.out_dim} channels are not those of {per} anchors")
        self.per, self.out_dim = per, self.out_dim // per

    def forward(self, *levels: Tensor) -> Tensor:
        return super().forward(*(level.unflatten(1, (self.per, -1)).permute(0, 2, 3, 4, 1) for level in levels))
