"""Attention among the neighbours of each atom, whose scores know the angles between them (EScAIP). Paper: arXiv:2410.24169.

The authors widen queries and keys by real spherical harmonics; by their addition theorem a product of two is a Legendre polynomial of the
angle, sum_m Y_lm(u) Y_lm(v) = P_l(u v) for harmonics of norm 1, so that none is computed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import split_heads
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]
Degree = Annotated[int, Meta(ge=0, le=64)]


def legendre(cosines: Tensor, degree: int) -> Iterator[Tensor]:
    """P_0, …, P_degree by (n + 1) P_n+1 = (2 n + 1) c P_n - n P_n-1."""
    before, now = torch.zeros_like(cosines), torch.ones_like(cosines)
    for n in range(degree + 1):
        yield now
        before, now = now, ((2 * n + 1) * cosines * now - n * before) / (n + 1)


def angular(directions: Tensor, degree: int) -> Iterator[Tensor]:
    """(N, K, K) P_l(u_i u_j) for l = 0 to `degree`; for a direction 0, which has no angle, 1 for l = 0 and 0 for the others."""
    real = directions.detach().abs().amax(-1, keepdim=True) > 0
    both = real & real.mT
    for n, values in enumerate(legendre(directions @ directions.mT, degree)):
        yield values if not n else values.masked_fill(~both, 0.0)


@block("neighbour_attention", kind="merge", paper="arXiv:2410.24169", covers=("escaip_attention",))
class NeighbourAttention(nn.Module):
    """y_i = sum_j softmax_j(s sum_l P_l(u_i u_j) q_il k_jl - e_j^2 / (1 - e_j^2)) v_j for each head, over the neighbours j of one atom.

    `channels` says how many channels of a head, q_l and k_l, are of degree l = 0, 1, …; without any all are of degree 0. s is
    (sum_l (2 l + 1) channels_l, rounded up to a multiple of 8)^-1/2, the width of what the authors multiply. e < 1 is the distance of a neighbour:
    one at 1 or beyond is not seen. Queries, keys and values (N, K, C), directions (N, K, 3), distances (N, K, 1) -> (N, K, C). Raises ValueError
    when heads do not divide, and for channels that do not make up a head.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        channels: tuple[Degree, ...] = (),
    ):
        super().__init__()
        if len(dims) != 5 or len(set(dims[:3])) > 1:
            raise ValueError(f"queries, keys, values, directions and distances are needed; there are widths {dims}")
        self.num_heads, self.head_dim = split_heads(dims[0], num_heads, head_dim)
        self.channels, self.out_dim = channels or (self.head_dim,), dims[0]
        if sum(self.channels) != self.head_dim:
            raise ValueError(
                f"channels of all degrees make up a head of {self.head_dim}; there are {sum(self.channels)}"
            )
        width = sum((2 * n + 1) * count for n, count in enumerate(self.channels))
        self.scale = (-(-width // 8) * 8 if channels else width) ** -0.5

    def macs(self, shape: tuple[int, ...], *others: Any) -> dict[str, int]:
        """Angles, scores and sums of K^2 pairs of neighbours: N K^2 (3 + 2 C)."""
        return {"matmul": shape[0] * shape[1] ** 2 * (3 + 2 * shape[2])}

    def forward(self, q: Tensor, k: Tensor, v: Tensor, directions: Tensor, distances: Tensor) -> Tensor:
        queries, keys, values = (x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for x in (q, k, v))
        parts = zip(queries.split(self.channels, -1), keys.split(self.channels, -1), strict=True)
        scores = queries.new_zeros(())
        for (a, b), angles in zip(parts, angular(directions, len(self.channels) - 1), strict=True):
            scores = scores + (a @ b.mT) * angles.unsqueeze(1)
        seen = distances < 1
        squares = distances.masked_fill(~seen, 0.0).square()
        fading = (-squares / (1 - squares)).masked_fill(~seen, -torch.inf)
        shares = (scores * self.scale + fading.mT.unsqueeze(1)).softmax(-1)
        return (shares @ values).transpose(1, 2).flatten(2)


@block("direction_order", kind="merge", paper="arXiv:2410.24169", covers=("bond_orientational_order",))
class DirectionOrder(nn.Module):
    """y_l = sqrt(max(mean_jk P_l(u_j u_k), floor)) for l = 0 to `degree`: how the neighbours of an atom lie around it (Steinhardt, 1983).

    The mean is over pairs of neighbours with a distance below 1. Directions (N, K, 3) and distances (N, K, 1) -> (N, degree + 1).
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        *,
        degree: Degree = 9,
        floor: Annotated[float, Meta(gt=0)] = 1e-6,
    ):
        super().__init__()
        self.degree, self.floor, self.out_dim = degree, floor, degree + 1

    def macs(self, shape: tuple[int, ...], *others: Any) -> dict[str, int]:
        """Angles of K^2 pairs of neighbours: 3 N K^2."""
        return {"matmul": 3 * shape[0] * shape[1] ** 2}

    def forward(self, directions: Tensor, distances: Tensor) -> Tensor:
        seen = (distances < 1).to(directions.dtype)
        pairs = seen * seen.mT
        count = seen.sum((1, 2)).clamp_min(1).square()
        sums = torch.stack([(values * pairs).sum((1, 2)) for values in angular(directions, self.degree)], -1)
        return (sums / count.unsqueeze(-1)).clamp_min(self.floor).sqrt()
