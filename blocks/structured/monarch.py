"""Monarch matrices: two block-diagonal factors with a transposition between them; and the block-diagonal map alone.

Papers: arXiv:2204.00595 (Monarch), arXiv:2310.12109 (Monarch Mixer). Upstream: HazyResearch/fly, HazyResearch/m2 (Apache-2.0),
whose names the parameters have.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block
from blocks.structured.structured import (
    EVERYWHERE,
    StructuredLinear,
    block_diagonal,
    filled_up,
    pieces,
    uniform_by_fan_in,
)

Count = Annotated[int, Meta(ge=1)]


@block("block_diagonal", kind="linear", abilities=EVERYWHERE, paper="arXiv:2310.12109")
class BlockDiagonal(StructuredLinear):
    """y = diag(W_1, ..., W_K) x + b: each of `num_blocks` pieces of the channels by itself, at 1 / K of the dense work.

    (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels. `weight` is (K, out_dim / K, C / K).
    """

    def __init__(self, dim: int, out_dim: int | None = None, *, num_blocks: Count = 4, bias: bool = True):
        super().__init__(dim, out_dim, bias)
        self.weight = nn.Parameter(torch.empty(num_blocks, pieces(self.out_dim, num_blocks), pieces(dim, num_blocks)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        uniform_by_fan_in(self.weight)

    def product(self, x: Tensor) -> Tensor:
        K, _, P = self.weight.shape
        y = block_diagonal(filled_up(x, K * P).unflatten(1, (K, P)), self.weight)
        return y.transpose(0, 1).flatten(1)[:, : self.out_dim]

    def scale_rows(self, scale: Tensor) -> None:
        K, Q, _ = self.weight.shape
        self.weight.mul_(filled_up(scale, K * Q, 1).view(K, Q, 1))

    def scale_columns(self, scale: Tensor) -> None:
        K, _, P = self.weight.shape
        self.weight.mul_(filled_up(scale, K * P, 1).view(K, 1, P))


@block("monarch", kind="linear", abilities=EVERYWHERE, paper="arXiv:2204.00595")
class Monarch(StructuredLinear):
    """y = P_2 L P_1 R x + b, with L and R block-diagonal and P_1, P_2 transpositions of the pieces.

    (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels. R is `blkdiag1` (K, Q, C / K) and L `blkdiag2`
    (K, out_dim / K, Q) for K = `num_blocks`, Q the smaller of C / K and out_dim / K. Both start even between
    +-1 / sqrt(fan-in), as upstream's.
    """

    def __init__(self, dim: int, out_dim: int | None = None, *, num_blocks: Count = 4, bias: bool = True):
        super().__init__(dim, out_dim, bias)
        before, after = pieces(dim, num_blocks), pieces(self.out_dim, num_blocks)
        between = min(before, after)
        self.blkdiag1 = nn.Parameter(torch.empty(num_blocks, between, before))
        self.blkdiag2 = nn.Parameter(torch.empty(num_blocks, after, between))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        uniform_by_fan_in(self.blkdiag1)
        uniform_by_fan_in(self.blkdiag2)

    def product(self, x: Tensor) -> Tensor:
        K, _, P = self.blkdiag1.shape
        return monarch(filled_up(x, K * P), self.blkdiag1, self.blkdiag2)[:, : self.out_dim]

    def scale_rows(self, scale: Tensor) -> None:
        K, S, _ = self.blkdiag2.shape
        self.blkdiag2.mul_(filled_up(scale, K * S, 1).view(S, K).T.unsqueeze(-1))

    def scale_columns(self, scale: Tensor) -> None:
        K, _, P = self.blkdiag1.shape
        self.blkdiag1.mul_(filled_up(scale, K * P, 1).view(K, 1, P))


def monarch(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """x (N, K P) through `first` (K, Q, P) and `second` (M, S, R) with M R = K Q -> (N, S M), where S counts outermost."""
    (K, _, P), (M, _, R) = first.shape, second.shape
    y = block_diagonal(x.unflatten(1, (K, P)), first).transpose(0, 1).flatten(1)
    y = block_diagonal(y.unflatten(1, (R, M)).transpose(1, 2), second)
    return y.permute(1, 2, 0).flatten(1)
