"""Voxels that are there, of a space that is empty for the most part: windows, convolutions, coarser voxels, and means between them.

A level of a pyramid has the same rows as the finest one. A row that stands for no voxel of a coarser level is of group -1, and no voxel sees it:
what the authors' kernels leave out is computed for nothing here, and each shape is known. Paper: arXiv:2304.06906 (Swin3D).
"""

from __future__ import annotations

import itertools
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.points.neighbours import lengths, listed
from blocks.registry import block

Count = Annotated[int, Meta(ge=1, le=65536)]
SPAN = 1 << 16
"""Cells along an axis that are told apart when the numbers of three axes and of the group become one."""


def cells(places: Tensor, stride: int) -> Tensor:
    """(N, 3) whole numbers: the cell, of `stride` voxels a side, that a place is in."""
    return (places / stride).floor().long()


def numbered(cell: Tensor, groups: Tensor) -> Tensor:
    """Whole numbers (..., 3) and groups (...) as one number (...)."""
    x, y, z = (cell + SPAN // 2).remainder(SPAN).unbind(-1)
    return (((groups + 1) * SPAN + x) * SPAN + y) * SPAN + z


@block("space_windows", kind="merge", paper="arXiv:2304.06906")
class SpaceWindows(nn.Module):
    """The number of the window that a voxel is in: cubes of `size` cells of `stride` voxels, half a window further with `shifted`.

    Places (N, 3) in voxels of the finest level and groups (N,) -> (N,) whole numbers.
    """

    out_dim = 1

    def __init__(self, dims: tuple[int, ...], *, size: Count, stride: Count = 1, shifted: bool = False):
        super().__init__()
        self.size, self.stride, self.shift = size, stride, size // 2 if shifted else 0

    def forward(self, places: Tensor, groups: Tensor) -> Tensor:
        cubes = (cells(places, self.stride) + self.shift).div(self.size, rounding_mode="floor")
        return numbered(cubes, groups)


@block("places_in_windows", kind="embed", paper="arXiv:2304.06906")
class PlacesInWindows(nn.Module):
    """y = (p / stride + shift) mod size: where in its window of `space_windows` a place is, in cells.

    (N, 3) -> (N, 3).
    """

    def __init__(self, dim: int, *, size: Count, stride: Count = 1, shifted: bool = False):
        super().__init__()
        self.size, self.stride, self.shift, self.out_dim = size, stride, size // 2 if shifted else 0, dim

    def forward(self, places: Tensor) -> Tensor:
        return (places / self.stride + self.shift).remainder(self.size)


@block("coarser_voxels", kind="merge", paper="arXiv:2304.06906")
class CoarserVoxels(nn.Module):
    """The groups of the next level: of the voxels in a cell of `stride` voxels the one nearest to their mean stays, the others are of group -1.

    Places (N, 3) in voxels of the finest level and groups (N,) -> (N,).
    """

    out_dim = 1

    def __init__(self, dims: tuple[int, ...], *, stride: Count):
        super().__init__()
        self.stride = stride

    def forward(self, places: Tensor, groups: Tensor) -> Tensor:
        if not groups.shape[0]:
            return groups
        numbers = numbered(cells(places, self.stride), groups)
        together = numbers[:, None] == numbers
        weights = together.to(places.dtype).unsqueeze(-1)
        distances = lengths((weights * places).sum(1) / weights.sum(1) - places).squeeze(-1)
        chosen = distances.expand_as(together).masked_fill(~together, torch.inf).argmin(1)
        return torch.where(chosen == torch.arange(len(groups), device=groups.device), groups, -1)


@block("sparse_conv", kind="merge", paper="arXiv:1904.08755", covers=("sparse_convolution", "minkowski_convolution"))
class SparseConv(nn.Module):
    """y_i = sum_o W_o x_j, where j is the voxel in the cell o beside that of i, if there is one: a convolution over the voxels that are there.

    Offsets o are those of a cube of `size` cells, the last axis fastest; `weight` is (out, size^3 C). Voxels (N, C), places (N, 3) in voxels
    and groups (N,) -> (N, out_dim). Raises ValueError for an even size.
    """

    def __init__(
        self, dims: tuple[int, ...], out_dim: int | None = None, *, size: Annotated[int, Meta(ge=1, le=9)] = 3
    ):
        super().__init__()
        if size % 2 == 0:
            raise ValueError(f"a cube of {size} cells has no middle; the nearest that has is {size + 1}")
        self.size, self.out_dim = size, out_dim or dims[0]
        self.weight = nn.Parameter(torch.empty(self.out_dim, size**3 * dims[0]))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def macs(self, shape: tuple[int, ...], *others: tuple[int, ...]) -> dict[str, int]:
        """As if all cells of the cube were there."""
        return {"matmul": shape[0] * self.weight.numel()}

    def forward(self, x: Tensor, places: Tensor, groups: Tensor) -> Tensor:
        if not x.shape[0]:
            return x.new_zeros(0, self.out_dim)
        index = self._beside(places, groups)
        rows = listed(x, index).masked_fill((index < 0).unsqueeze(-1), 0.0)
        return F.linear(rows.flatten(1), self.weight)

    def _beside(self, places: Tensor, groups: Tensor) -> Tensor:
        """(N, size^3): the voxel in each cell of the cube around a voxel, -1 for none."""
        around = range(-(self.size // 2), self.size // 2 + 1)
        offsets = torch.tensor(list(itertools.product(around, repeat=3)), device=places.device)
        cell = cells(places, 1)
        wanted = numbered(cell[:, None] + offsets, groups[:, None])
        there = wanted.unsqueeze(-1) == numbered(cell, groups)  # (N, size^3, N)
        return torch.where(there.any(-1), there.long().argmax(-1), -1)


@block("distance_mean", kind="merge", paper="arXiv:2304.06906")
class DistanceMean(nn.Module):
    """y = sum_k w_k x_k / sum_k w_k with w = 1 / (d + eps), over the neighbours with d < 1.

    Rows (N, K, C) and distances (N, K, 1) -> (N, C); 0 without neighbours.
    """

    def __init__(self, dims: tuple[int, ...], *, eps: Annotated[float, Meta(gt=0)] = 1e-8):
        super().__init__()
        self.eps, self.out_dim = eps, dims[0]

    def forward(self, x: Tensor, distances: Tensor) -> Tensor:
        weights = (1 / (distances + self.eps)).masked_fill(distances >= 1, 0.0)
        total = weights.sum(1, keepdim=True)
        return (x * (weights / total.masked_fill(total == 0, 1.0))).sum(1)
