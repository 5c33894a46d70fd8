"""Distances as features: bases of functions of a length, directions, and the curve with which a neighbour fades out. Paper: arXiv:2306.06482."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.points.neighbours import lengths
from blocks.registry import block
from blocks.tables import Table

Positive = Annotated[float, Meta(gt=0)]


def exponential_means(count: int, cutoff: float) -> Tensor:
    """(2, count): means and inverse squared widths of bells over exp(-d), as PhysNet has them. In float32, as checkpoints carry them."""
    first = torch.exp(torch.tensor(-cutoff))
    means = torch.linspace(float(first), 1, count)
    return torch.stack([means, ((2 / count * (1 - first)) ** -2).expand(count)])


def even_means(count: int, cutoff: float, width: float) -> Tensor:
    """(2, count): means from 0 to the cut-off and inverse squared widths of bells over d, `width` of their distance wide."""
    means = torch.linspace(0, cutoff, count)
    return torch.stack([means, torch.tensor(0.5 / (width * float(means[1] - means[0])) ** 2).expand(count)])


@block("radial_basis", kind="embed", layout="BLC", paper="arXiv:2306.06482", covers=("expnorm", "gaussian_smearing"))
class RadialBasis(nn.Module):
    """y_n = exp(-b_n (f(d) - m_n)^2) of the length d of each vector: `count` bells over it.

    (N, K, 3) -> (N, K, count). Law "exponential": f(d) = exp(-5 d / cutoff) with means from exp(-cutoff) to 1, all times
    (cos(pi d / cutoff) + 1) / 2 up to the cutoff. Law "gaussian": f(d) = d with means from 0 to the cutoff, `width` times as wide as they are apart.
    """

    def __init__(
        self,
        dim: int,
        *,
        cutoff: Positive,
        count: Annotated[int, Meta(ge=2, le=65536)] = 32,
        law: Literal["exponential", "gaussian"] = "exponential",
        width: Positive = 1.0,
    ):
        super().__init__()
        self.cutoff, self.law, self.out_dim = cutoff, law, count
        even = law == "gaussian"
        self.bells = Table(even_means, (count, cutoff, width)) if even else Table(exponential_means, (count, cutoff))

    def forward(self, steps: Tensor) -> Tensor:
        distance = lengths(steps)
        means, narrowness = self.bells.like(distance)
        if self.law == "gaussian":
            return torch.exp(-narrowness * (distance - means).square())
        bells = torch.exp(-narrowness * (torch.exp(-5 / self.cutoff * distance) - means).square())
        return faded(distance / self.cutoff) * bells


@block("cosine_cutoff", kind="embed", layout="BLC", paper="arXiv:2306.06482")
class CosineCutoff(nn.Module):
    """y = (cos(pi d) + 1) / 2 of a distance relative to the cutoff, 0 from 1 on.

    (N, K, C) -> (N, K, C).
    """

    def __init__(self, dim: int):
        super().__init__()
        self.out_dim = dim

    def forward(self, distances: Tensor) -> Tensor:
        return faded(distances)


@block("directions", kind="embed", layout="BLC", paper="arXiv:2306.06482")
class Directions(nn.Module):
    """y = v / |v|, and 0 for a vector of no length.

    (N, K, 3) -> (N, K, 3).
    """

    def __init__(self, dim: int):
        super().__init__()
        self.out_dim = dim

    def forward(self, steps: Tensor) -> Tensor:
        distance = lengths(steps)
        return steps / distance.masked_fill(distance == 0, 1.0)


@block("token_pool", kind="pool", layout="BLC", abilities=("noncausal", "any_resolution", "1d"))
class TokenPool(nn.Module):
    """y = sum_L x, its maximum, or the first token alone.

    (B, L, C) -> (B, C). Raises ValueError for the maximum, and the first, of none.
    """

    def __init__(self, dim: int, *, law: Literal["sum", "max", "first"] = "sum"):
        super().__init__()
        self.law, self.out_dim = law, dim

    def forward(self, x: Tensor) -> Tensor:
        if self.law == "sum":
            return x.sum(1)
        if not x.shape[1]:
            raise ValueError(f"of tokens the {self.law} is asked for, and {tuple(x.shape)} has none")
        return x[:, 0] if self.law == "first" else x.amax(1)


def faded(relative: Tensor) -> Tensor:
    """(cos(pi d) + 1) / 2 up to d = 1, then 0."""
    return 0.5 * (torch.cos(math.pi * relative.clamp(max=1)) + 1)
