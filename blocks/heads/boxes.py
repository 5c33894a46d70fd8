"""Boxes and scores of all levels of a detector as two lists: the decoding of heads without anchors.

Paper: arXiv:2006.04388 (a side of a box as a distribution over bins). Taking the best and leaving out doubles comes behind it.
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
