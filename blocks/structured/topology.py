"""A projection of channels that stand on a grid: each output reads its neighbours alone. Paper: arXiv:1608.04337."""

from __future__ import annotations

import itertools
import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block
from blocks.structured.structured import EVERYWHERE, StructuredLinear, uniform_by_fan_in
from blocks.tables import Table

Sides = Annotated[list[Annotated[int, Meta(ge=1)]], Meta(min_length=1, max_length=4)]


@block(
    "topology",
    kind="downsample",
    abilities=EVERYWHERE,
    paper="arXiv:1608.04337",
    covers=("topological_subdivisioning", "topological_connection"),
)
class Topology(StructuredLinear):
    """y_o = sum_t W[o, t] x[p(o) + t] + b: channels stand on a grid of `sides`, round its border, and t goes over a box of `reach` steps.

    (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels. Output o stands at the place p(o) of input o mod C. `weight` is
    (out_dim, box). Without values the grid is a nearly square table, and the box half of each side: a quarter of the dense weights.
    Raises ValueError for sides that do not hold C channels, and for a box that is longer than a side.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        sides: Sides | None = None,
        reach: Sides | None = None,
        bias: bool = True,
    ):
        super().__init__(dim, out_dim, bias)
        lengths = tuple(sides) if sides else _table(dim)
        steps = tuple(reach) if reach else tuple(max(1, length // 2) for length in lengths)
        if math.prod(lengths) != dim:
            raise ValueError(f"sides {list(lengths)} hold {math.prod(lengths)} channels, and there are {dim}")
        if len(steps) != len(lengths) or any(step > length for step, length in zip(steps, lengths, strict=True)):
            raise ValueError(f"a box of {list(steps)} steps does not lie in a grid of {list(lengths)}")
        self.weight = nn.Parameter(torch.empty(self.out_dim, math.prod(steps)))
        self.columns = Table(neighbours, (lengths, steps, self.out_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        uniform_by_fan_in(self.weight)

    def product(self, x: Tensor) -> Tensor:
        columns = self.columns.like(x)
        read = x.index_select(1, columns.flatten()).unflatten(1, columns.shape)
        return torch.bmm(read.transpose(0, 1), self.weight.unsqueeze(2)).transpose(0, 1).contiguous().flatten(1)

    def scale_rows(self, scale: Tensor) -> None:
        self.weight.mul_(scale.to(self.weight).unsqueeze(1))

    def scale_columns(self, scale: Tensor) -> None:
        self.weight.mul_(scale.to(self.weight)[self.columns.like(scale)])


def _table(dim: int) -> tuple[int, int]:
    """The sides of the table nearest to a square that holds exactly so many channels."""
    rows = next(rows for rows in range(math.isqrt(dim), 0, -1) if dim % rows == 0)
    return rows, dim // rows


def neighbours(sides: tuple[int, ...], reach: tuple[int, ...], outputs: int) -> Tensor:
    """(outputs, box) the inputs that each output reads."""
    places = torch.arange(math.prod(sides)).view(sides)
    steps = itertools.product(*(range(length) for length in reach))
    boxes = [places.roll([-step for step in box], list(range(len(sides)))).flatten() for box in steps]
    return torch.stack(boxes, 1)[torch.arange(outputs) % math.prod(sides)]
