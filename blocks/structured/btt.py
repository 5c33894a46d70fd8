"""Block tensor-train matrices: two batched factors whose middle is `rank` times as wide as Monarch's.

Paper: arXiv:2406.06248. Upstream: shikaiqiu/compute-better-spent. Differs: no normalisation of the factors' size in training.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block
from blocks.structured.structured import EVERYWHERE, StructuredLinear, block_diagonal, filled_up, grid


@block("btt", kind="linear", abilities=EVERYWHERE, paper="arXiv:2406.06248", covers=("block_tensor_train",))
class Btt(StructuredLinear):
    """y_{ij} = sum_{k,s} L_{j,i,(k,s)} sum_l R_{k,(j,s),l} x_{kl} + b_{ij}, with the channels laid out as tables x_{kl} and y_{ij}.

    (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels. The tables are as square as the widths allow, s
    runs over `rank`. With n_1, n_2, m_1 and m_2 values of k, l, i and j, R is (n_1, m_2 rank, n_2) and L
    (m_2, m_1, n_1 rank): about 2 rank C^1.5 weights. Each factor starts normal with deviation
    sqrt(min(fan-in, fan-out)) / fan-in and learns at C / (2 fan-in) times the rate of a dense layer (`lr_scales`).
    """

    def __init__(
        self, dim: int, out_dim: int | None = None, *, rank: Annotated[int, Meta(ge=1)] = 2, bias: bool = True
    ):
        super().__init__(dim, out_dim, bias)
        (n_1, n_2), (m_1, m_2) = grid(dim), grid(self.out_dim)
        self.rank = rank
        self.R = nn.Parameter(torch.empty(n_1, m_2 * rank, n_2))
        self.L = nn.Parameter(torch.empty(m_2, m_1, n_1 * rank))
        self.lr_scales = {"R": dim / (2 * n_2), "L": dim / (2 * n_1 * rank)}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for factor in (self.R, self.L):
            _, fan_out, fan_in = factor.shape
            nn.init.normal_(factor, std=math.sqrt(min(fan_in, fan_out)) / fan_in)

    def product(self, x: Tensor) -> Tensor:
        n_1, _, n_2 = self.R.shape
        y = block_diagonal(filled_up(x, n_1 * n_2).unflatten(1, (n_1, n_2)), self.R)
        y = y.unflatten(2, (-1, self.rank)).permute(1, 2, 0, 3).flatten(2)  # (N, m_2, n_1 rank)
        return block_diagonal(y, self.L).permute(1, 2, 0).flatten(1)[:, : self.out_dim]

    def scale_rows(self, scale: Tensor) -> None:
        m_2, m_1, _ = self.L.shape
        self.L.mul_(filled_up(scale, m_1 * m_2, 1).view(m_1, m_2).T.unsqueeze(-1))

    def scale_columns(self, scale: Tensor) -> None:
        n_1, _, n_2 = self.R.shape
        self.R.mul_(filled_up(scale, n_1 * n_2, 1).view(n_1, 1, n_2))
