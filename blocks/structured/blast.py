"""BLAST matrices: blocks of low rank that share their left factors along rows and their right factors along columns.

Paper: arXiv:2410.21262. Upstream: changwoolee/BLAST, whose names the parameters have.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block
from blocks.structured.structured import EVERYWHERE, StructuredLinear, block_diagonal, filled_up, pieces

Count = Annotated[int, Meta(ge=1)]


@block("blast", kind="linear", abilities=EVERYWHERE, paper="arXiv:2410.21262")
class Blast(StructuredLinear):
    """y_i = B_i sum_j D_ij * (C_j x_j) + b for the K = `num_blocks` pieces x_j of the input and y_i of the output.

    (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels. The block W_ij is B_i diag(D_ij) C_j, with B
    (K, out_dim / K, rank), C (K, rank, C / K) and D (K, K, rank). Without a value the rank is that with half the weights
    of a dense map. D starts even between 0 and 2, B and C normal, as in the paper, with the deviation at which y varies as much as x.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        num_blocks: Count = 4,
        rank: Count | None = None,
        bias: bool = True,
    ):
        super().__init__(dim, out_dim, bias)
        rank = rank or max(1, dim * self.out_dim // (2 * (dim + self.out_dim + num_blocks**2)))
        self.B = nn.Parameter(torch.empty(num_blocks, pieces(self.out_dim, num_blocks), rank))
        self.C = nn.Parameter(torch.empty(num_blocks, rank, pieces(dim, num_blocks)))
        self.D = nn.Parameter(torch.empty(num_blocks, num_blocks, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        square_of_D = 4 / 3
        std = (square_of_D * self.dim * self.D.shape[-1]) ** -0.25
        nn.init.normal_(self.B, std=std)
        nn.init.normal_(self.C, std=std)
        nn.init.uniform_(self.D, 0, 2)

    def product(self, x: Tensor) -> Tensor:
        K, _, P = self.C.shape
        z = block_diagonal(filled_up(x, K * P).unflatten(1, (K, P)), self.C)  # (K, N, rank)
        z = torch.bmm(self.D.permute(2, 0, 1), z.permute(2, 0, 1))  # (rank, K, N): all pieces of one rank at once
        return block_diagonal(z.permute(2, 1, 0), self.B).transpose(0, 1).flatten(1)[:, : self.out_dim]

    def scale_rows(self, scale: Tensor) -> None:
        K, Q, _ = self.B.shape
        self.B.mul_(filled_up(scale, K * Q, 1).view(K, Q, 1))

    def scale_columns(self, scale: Tensor) -> None:
        K, _, P = self.C.shape
        self.C.mul_(filled_up(scale, K * P, 1).view(K, 1, P))
