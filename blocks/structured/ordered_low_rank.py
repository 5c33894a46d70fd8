"""Ordered low rank: inner channels that are trained by prefixes, so that the last ones can be cut when they have become small.

Paper: arXiv:2308.14929 (Maestro). Names of the state are those of SamuelHorvath/Maestro-LoD (Apache-2.0).
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.primitives.linears import EVERYWHERE, Dense
from blocks.registry import block


@block("ordered_low_rank", kind="linear", abilities=EVERYWHERE, paper="arXiv:2308.14929", covers=("maestro",))
class OrderedLowRank(nn.Module):
    """y = U V x + b with r inner channels, V (r, in) and U (out, r), of which `width` keeps the first ceil(width r).

    (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels. r is `rank`, or the smaller of the two widths, with which the
    map is no smaller at first: `prune` cuts it. Training draws a prefix (`draw`) for one map at a time, and adds `group_lasso` to the
    loss. Raises ValueError for a rank that exceeds either width.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        rank: Annotated[int, Meta(ge=1)] | None = None,
        bias: bool = True,
    ):
        super().__init__()
        self.dim, self.out_dim = dim, out_dim or dim
        most = min(dim, self.out_dim)
        if (rank or most) > most:
            raise ValueError(
                f"rank {rank} exceeds a map from {dim} to {self.out_dim} channels, whose rank is at most {most}"
            )
        self.in_network = Dense(dim, rank or most, bias=False)
        self.out_network = Dense(rank or most, self.out_dim, bias=bias)
        self.width = 1.0

    @property
    def rank(self) -> int:
        return int(self.in_network.weight.shape[0])

    def forward(self, x: Tensor) -> Tensor:
        inner = self.in_network(x)
        count = math.ceil(self.width * self.rank)
        if count < self.rank:
            kept = torch.arange(self.rank, device=x.device) < count
            inner = inner * (kept.view(-1, 1, 1) if x.ndim == 4 else kept)
        y: Tensor = self.out_network(inner)
        return y

    def importance(self, hierarchical: bool = False) -> Tensor:
        """(r,) |row j of V| |column j of U|, or with `hierarchical` each norm taken over channel j and all behind it."""
        rows, columns = self._norms(hierarchical)
        return rows * columns

    def group_lasso(self, hierarchical: bool = True) -> Tensor:
        """(r,) |row j of V| + |column j of U|, whose sum is the penalty."""
        rows, columns = self._norms(hierarchical)
        return rows + columns

    def _norms(self, hierarchical: bool) -> tuple[Tensor, Tensor]:
        squares = self.in_network.weight.square().sum(1), self.out_network.weight.square().sum(0)
        if hierarchical:
            squares = squares[0].flip(0).cumsum(0).flip(0), squares[1].flip(0).cumsum(0).flip(0)
        return squares[0].sqrt(), squares[1].sqrt()

    @torch.no_grad()
    def prune(self, threshold: float, hierarchical: bool = False) -> Tensor:
        """Cuts the inner channels of less importance; returns which were kept, (r,) before."""
        kept = self.importance(hierarchical) >= threshold
        self.in_network.weight = nn.Parameter(self.in_network.weight[kept])
        self.out_network.weight = nn.Parameter(self.out_network.weight[:, kept])
        return kept

    @torch.no_grad()
    def factorise(self, weight: Tensor) -> None:
        """Takes a given W (out, in): U sqrt(S) and sqrt(S) V^T of its singular values."""
        U, S, Vh = torch.linalg.svd(weight.to(self.in_network.weight), full_matrices=False)
        root = S[: self.rank].sqrt()
        self.out_network.weight.copy_(U[:, : self.rank] * root)
        self.in_network.weight.copy_(root[:, None] * Vh[: self.rank])

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return self.out_network.absorb_output(scale, shift)

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return self.in_network.absorb_input(scale, shift) and self._moved()

    def _moved(self) -> bool:
        """A shift of the inner channels goes on to the last bias."""
        inner, self.in_network.bias = self.in_network.bias, None  # type: ignore[assignment]  # nn.Linear may have none
        if inner is not None:
            self.out_network.absorb_input(torch.ones_like(inner), inner)
        return True
