"""Learned positions: a table added to the stream, and how such a table follows its image to another size."""

from __future__ import annotations

import math
from math import isqrt
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.registry import block
from blocks.registry.errors import SizeError

Size = tuple[int, ...]


@block("position_embedding", kind="embed", abilities=("causal", "noncausal"), paper="arXiv:2010.11929")
class PositionEmbedding(nn.Module):
    """y = x + pos_embed, one learned vector per position.

    (B, C, H, W) or (B, L, C) -> the same shape, for the one size it was built for; with `dynamic_size` an image may have any other,
    to which the table is interpolated. Raises SizeError for another size; `resize_table` fits the table of another image size.
    With `fixed` the table is that of waves of rows and columns (arXiv:2212.09748), and nothing trains it.
    `spare_token` keeps a class token (1, 1, C) in the state that nothing reads and nothing trains, as checkpoints of SLAB do.
    """

    no_decay = ("pos_embed",)

    cls_token: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        *,
        dynamic_size: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = False,
        spare_token: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = False,
        fixed: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = False,
        input_size: tuple[int, ...] = (14, 14),
    ):
        super().__init__()
        self.input_size, self.dynamic_size = tuple(input_size), dynamic_size
        if fixed and (dim % 4 or len(input_size) != 2):
            raise ValueError(f"waves of rows and columns need an image and a multiple of 4 channels; there are {dim}")
        self.fixed = fixed
        self.pos_embed = nn.Parameter(torch.empty(1, math.prod(input_size), dim), requires_grad=not fixed)
        token = nn.Parameter(torch.empty(1, 1, dim), requires_grad=False) if spare_token else None
        self.register_parameter("cls_token", token)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.fixed:
            with torch.no_grad():
                self.pos_embed.copy_(_waves(self.input_size, self.pos_embed.shape[-1]))
        else:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.zeros_(self.cls_token)

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[2:] if x.ndim == 4 else x.shape[1:2])
        table: Tensor = self.pos_embed
        if size != self.input_size and (x.ndim == 4 or size != (table.shape[1],)):
            resized = resized_grid(table, size, self.input_size) if self.dynamic_size and x.ndim == 4 else None
            if resized is None:
                raise SizeError(
                    f"these positions are for inputs of size {self.input_size} and meet {size}; "
                    "build the model with that input size"
                )
            table = resized
        return x + (table.unflatten(1, size).permute(0, 3, 1, 2) if x.ndim == 4 else table)

    def resize_table(
        self, name: str, tensor: Tensor, expected_shape: tuple[int, ...], old: PositionEmbedding | None = None
    ) -> Tensor | None:
        """The table of another image size, for this one; None for a sequence, which has no rows and columns."""
        if name != "pos_embed" or tensor.ndim != 3 or tensor.shape[-1] != expected_shape[-1]:
            return None
        before = old.input_size if old is not None else None
        return resized_grid(tensor, self.input_size, before) if len(self.input_size) == 2 else None


@block("shared_positions", kind="embed", layout="BLC", abilities=("1d",), paper="arXiv:2304.02532")
class SharedPositions(nn.Module):
    """y_t = x_t + pos_embed[places_t], one learned vector for each place; several positions may have the same.

    (B, L, C) -> (B, L, C). `places` are as many as the positions, without them 0, 1, 2, … Raises SizeError for another length.
    """

    no_decay = ("pos_embed",)

    def __init__(
        self,
        dim: int,
        *,
        places: Annotated[list[Annotated[int, Meta(ge=0, le=65535)]], Meta(min_length=1, max_length=65536)]
        | None = None,
        input_size: tuple[int, ...] = (16,),
    ):
        super().__init__()
        self.places = places or list(range(math.prod(input_size)))
        self.pos_embed = nn.Parameter(torch.empty(1, max(self.places) + 1, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != len(self.places):
            raise SizeError(f"these positions are for {len(self.places)} tokens and meet {x.shape[1]}")
        return x + self.pos_embed[:, self.places]


def _waves(size: Size, dim: int) -> Tensor:
    """(1, H*W, C): sines and cosines of the column in the first half of the channels, of the row in the second."""
    rates = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) * 4 / dim)
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in size), indexing="ij")
    angles = [axis.flatten().outer(rates) for axis in (columns, rows)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1).unsqueeze(0)


def resized_grid(table: Tensor, size: Size, old: Size | None = None) -> Tensor | None:
    """(1, h*w, C) -> (1, H*W, C) by bicubic interpolation with antialiasing, in float32; the table itself where (h, w) is (H, W).

    `old` is (h, w), as the block knows it that the table belongs to. Without such a block only h*w is known: the grid is then taken
    to be H : W in shape, else square. None where h*w cells make no such grid.
    """
    old = old or _likely_grid(table.shape[1], size)
    if old is None or len(old) != 2 or math.prod(old) != table.shape[1]:
        return None
    if tuple(old) == tuple(size):
        return table
    grid = table.float().unflatten(1, old).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=tuple(size), mode="bicubic", antialias=True, align_corners=False)
    return grid.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)


def _likely_grid(count: int, size: Size) -> tuple[int, int] | None:
    """Rows and columns, all whole, that `count` cells have in the shape of `size`, else as a square."""
    rows = round(math.sqrt(count * size[0] / size[1]))
    shaped = rows > 0 and rows * size[1] % size[0] == 0 and rows * (rows * size[1] // size[0]) == count
    if shaped:
        return rows, count // rows
    side = isqrt(count)
    return (side, side) if side and side**2 == count else None
