"""Who is near whom among points of several groups, as atoms of molecules: distances, and lists of neighbours of one length.

Distances are told in units of the cutoff, so that neighbours are those below 1. A list (N, K) holds the numbers of the nearest, the nearest
first, and -1 where there are fewer; what stands at -1 is looked at by nobody.
Papers: arXiv:2306.06482 (a cut-off), arXiv:2410.24169 (soft ranks).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1, le=65536)]
BEYOND = 1e4
"""The distance between points of two groups, and of what is not there."""
NO_LENGTH = 1e-12
"""Squared lengths up to this are 0: the root has no gradient there."""


def lengths(steps: Tensor) -> Tensor:
    """(..., 3) -> (..., 1): |v|, with a gradient of 0 at v = 0."""
    squares = steps.square().sum(-1, keepdim=True)
    none = squares <= NO_LENGTH
    return torch.where(none, 1.0, squares).sqrt().masked_fill(none, 0.0)


def listed(x: Tensor, index: Tensor) -> Tensor:
    """x (N, ...) at the numbers of a list (N, K) -> (N, K, ...); at -1 stands the first."""
    return x[index.clamp_min(0)]


@block("relative_distances", kind="merge", paper="arXiv:2306.06482")
class RelativeDistances(nn.Module):
    """d_ij = |p_i - p_j| / cutoff, and 10^4 between points of two groups.

    Places (N, 3) and groups (N,) -> (N, N). A third tensor (N,) is the groups of the points j, where they are not those of i.
    """

    out_dim = 1

    def __init__(self, dims: tuple[int, ...], *, cutoff: Positive):
        super().__init__()
        self.cutoff = cutoff

    def forward(self, places: Tensor, groups: Tensor, others: Tensor | None = None) -> Tensor:
        distances = lengths(places[:, None] - places).squeeze(-1) / self.cutoff
        return distances.masked_fill(groups[:, None] != (groups if others is None else others), BEYOND)


@block("soft_distances", kind="merge", paper="arXiv:2410.24169", covers=("soft_knn",))
class SoftDistances(nn.Module):
    """e_ij = s log(exp(r_ij / k s) + exp(r_ji / k s) + exp(d_ij / cutoff s)), d_ij = |p_i - p_j|: below 1 for those that are near each other.

    r_ij = sum_l sigmoid((d_ij - d_il) / w) is the soft rank of j among the neighbours l of i. It is 10^4 between points of two groups, and 0
    for a point and itself. k = `count`, w = `width` in the units of the places, s = `sharpness`. With `reach` ranks are counted among the
    k + reach nearest alone, with half a wave, which ends, for the sigmoid; the others have none. Places (N, 3) and groups (N,) -> (N, N).
    """

    out_dim = 1

    def __init__(
        self,
        dims: tuple[int, ...],
        *,
        cutoff: Positive,
        count: Count,
        width: Positive = 0.2,
        sharpness: Positive = 0.1,
        reach: Count | None = None,
    ):
        super().__init__()
        self.cutoff, self.count, self.width, self.sharpness, self.reach = cutoff, count, width, sharpness, reach

    def forward(self, places: Tensor, groups: Tensor) -> Tensor:
        distances = lengths(places[:, None] - places).squeeze(-1)
        apart = groups[:, None] != groups
        ranks = self._ranks(distances, apart) / self.count
        measures = torch.stack([ranks, ranks.T, distances / self.cutoff])
        y = self.sharpness * torch.logsumexp(measures / self.sharpness, 0)
        return y.masked_fill(distances == 0, 0.0).masked_fill(apart, BEYOND)

    def _ranks(self, distances: Tensor, apart: Tensor) -> Tensor:
        """(N, N), where what stands at other groups means nothing."""
        if self.reach is None:
            before = torch.sigmoid((distances[:, :, None] - distances[:, None]) / self.width)
            return before.masked_fill(apart[:, None], 0.0).sum(-1)
        far = distances.masked_fill(apart, torch.inf)
        near, index = far.topk(min(self.count + self.reach, far.shape[1]), 1, largest=False)
        there = near < torch.inf
        near = near.masked_fill(~there, 0.0)
        angles = (near[:, :, None] - near[:, None]) / self.width
        wave = torch.where(angles.abs() < math.pi, torch.sin(angles / 2), angles.sign())
        ranks = (0.5 * wave + 0.5).masked_fill(~there[:, None], 0.0).sum(-1)
        return torch.full_like(distances, BEYOND).scatter(1, index, ranks)


@block("nearest_neighbours", kind="merge", paper="arXiv:2306.06482")
class NearestNeighbours(nn.Module):
    """The list of those with the smallest d_ij < 1: at most `count`, with `pad` as many, also where there are fewer points.

    (N, N) -> (N, K) whole numbers, the nearest first, and -1, or with `again` the nearest once more, where there are fewer.
    """

    out_dim = 1

    def __init__(self, dims: tuple[int, ...], *, count: Count, pad: bool = False, again: bool = False):
        super().__init__()
        self.count, self.pad, self.again = count, pad, again

    def forward(self, distances: Tensor) -> Tensor:
        found = min(self.count, distances.shape[1])
        values, index = distances.topk(found, 1, largest=False)
        index = torch.where(values < 1, index, -1)
        if self.pad:
            index = nn.functional.pad(index, (0, self.count - found), value=-1)
        return torch.where(index < 0, index[:, :1], index) if self.again else index


@block("listed_values", kind="merge", paper="arXiv:2306.06482")
class ListedValues(nn.Module):
    """y_ik = d_i,n_ik for the k-th neighbour n_ik of i, and 10^4 where there is none.

    (N, N) and a list (N, K) -> (N, K, 1).
    """

    out_dim = 1

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()

    def forward(self, values: Tensor, index: Tensor) -> Tensor:
        if not values.shape[1]:
            return values.new_full((*index.shape, 1), BEYOND)
        return values.gather(1, index.clamp_min(0)).masked_fill(index < 0, BEYOND).unsqueeze(-1)


@block("listed_steps", kind="merge", paper="arXiv:2306.06482")
class ListedSteps(nn.Module):
    """v_ik = p_n_ik - p_i, from a point to its k-th neighbour n_ik, or with `back` from there; 0 where there is none.

    Places (N, 3) and a list (N, K) -> (N, K, 3).
    """

    def __init__(self, dims: tuple[int, ...], *, back: bool = False):
        super().__init__()
        self.back, self.out_dim = back, dims[0]

    def forward(self, places: Tensor, index: Tensor) -> Tensor:
        steps = listed(places, index) - places[:, None]
        return (-steps if self.back else steps).masked_fill((index < 0).unsqueeze(-1), 0.0)


@block("listed_rows", kind="merge", paper="arXiv:2306.06482")
class ListedRows(nn.Module):
    """y_ik = x_n_ik, what the k-th neighbour n_ik of i has, or for `whose` "own" x_i for each of them.

    (N, C) and a list (N, K) -> (N, K, C). Where there is no neighbour stands what the first point has.
    """

    def __init__(self, dims: tuple[int, ...], *, whose: Literal["neighbour", "own"] = "neighbour"):
        super().__init__()
        self.whose, self.out_dim = whose, dims[0]

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return listed(x, index) if self.whose == "neighbour" else x[:, None].expand(-1, index.shape[1], -1)


@block("group_sum", kind="merge", paper="arXiv:2306.06482")
class GroupSum(nn.Module):
    """y_g = sum of x_i over the points i of group g; with `flat` one number, and no vector, for each group.

    (N, C) and groups (N,), of which the highest says how many there are -> (G, C), or (G,). Raises ValueError for `flat` and several channels.
    """

    def __init__(self, dims: tuple[int, ...], *, flat: bool = False):
        super().__init__()
        if flat and dims[0] != 1:
            raise ValueError(f"one channel makes one number for each group; there are {dims[0]}")
        self.flat, self.out_dim = flat, dims[0]

    def forward(self, x: Tensor, groups: Tensor) -> Tensor:
        # a count of each group has the length that is wanted without a look at it; on meta, where nothing can be known, all are one
        count = 1 if groups.is_meta else torch.bincount(groups).shape[0]
        y = x.new_zeros(count, x.shape[1]).index_add(0, groups, x)
        return y.flatten() if self.flat else y
