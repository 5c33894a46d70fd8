"""A linear map of which a few weights remain: each output, or each few neighbouring ones, reads a few of the inputs.

Paper: arXiv:1911.09723 (Fast Sparse ConvNets), of whose kernels a block of outputs shares its inputs. Upstream:
google-research/fastconvnets (Apache-2.0). Differs from upstream: every block of outputs keeps as many inputs as every other.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import check_divides
from blocks.registry import block
from blocks.structured.structured import EVERYWHERE, StructuredLinear, uniform_by_fan_in


@block(
    "sparse",
    kind="linear",
    abilities=EVERYWHERE,
    paper="arXiv:1911.09723",
    covers=("fast_sparse_convnets", "sparse_linear", "block_sparse"),
)
class Sparse(StructuredLinear):
    """y_o = sum_k W[o, k] x[columns[o, k]] + b, where all but K = (1 - sparsity) C of the C weights of an output are zero.

    (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels. `weight` (out_dim / S, S, K) holds the weights that remain and
    `columns` (out_dim / S, K) the inputs that they read, the same ones for S = `block_size` neighbouring outputs; K is rounded, and 1 at
    least. With `ratio` the width is the whole number nearest to ratio * C. The mask is drawn at random; `prune` takes that of a dense map,
    by the size of its weights. Raises ValueError when `block_size` does not divide `out_dim`.
    """

    columns: Tensor

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        sparsity: Annotated[float, Meta(ge=0, lt=1)] = 0.9,
        block_size: Annotated[int, Meta(ge=1)] = 1,
        ratio: Annotated[float, Meta(gt=0)] | None = None,
        bias: bool = True,
    ):
        super().__init__(dim, out_dim if ratio is None else max(1, round(ratio * dim)), bias)
        check_divides("block_size", block_size, "out_dim", self.out_dim)
        remaining = max(1, round((1 - sparsity) * dim))
        rows = self.out_dim // block_size
        self.weight = nn.Parameter(torch.empty(rows, block_size, remaining))
        self.register_buffer("columns", torch.empty(rows, remaining, dtype=torch.int32))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        super().reset_parameters()
        uniform_by_fan_in(self.weight)
        if not self.columns.is_meta:
            rows, remaining = self.columns.shape
            order = torch.rand(rows, self.dim, device=self.columns.device).argsort(1)
            self.columns.copy_(order[:, :remaining].sort(1).values)

    @torch.no_grad()
    def prune(self, weight: Tensor) -> None:
        """Takes what remains of a dense W (out_dim, C): for each block of outputs the inputs whose weights are the largest together."""
        blocks = weight.to(self.weight).unflatten(0, self.weight.shape[:2])
        columns = blocks.square().sum(1).topk(self.weight.shape[2]).indices.sort(1).values
        self.columns.copy_(columns)
        self.weight.copy_(blocks.gather(2, columns.unsqueeze(1).expand_as(self.weight)))

    @torch.no_grad()
    def dense(self) -> Tensor:
        """W (out_dim, C), the zeros written out."""
        rows, size, _ = self.weight.shape
        wide = self.weight.new_zeros(rows, size, self.dim)
        return wide.scatter_(2, self.columns.long().unsqueeze(1).expand_as(self.weight), self.weight).flatten(0, 1)

    def product(self, x: Tensor) -> Tensor:
        read = x.index_select(1, self.columns.flatten()).unflatten(1, self.columns.shape)
        return torch.bmm(read.transpose(0, 1), self.weight.transpose(1, 2)).transpose(0, 1).contiguous().flatten(1)

    def scale_rows(self, scale: Tensor) -> None:
        self.weight.mul_(scale.to(self.weight).view(*self.weight.shape[:2], 1))

    def scale_columns(self, scale: Tensor) -> None:
        self.weight.mul_(scale.to(self.weight)[self.columns].unsqueeze(1))


@block("sparse_matrix", kind="downsample", abilities=EVERYWHERE, paper="arXiv:1911.09723")
class SparseMatrix(Sparse):
    """y_o = sum_k W[o, k] x[columns[o, k]]: `sparse` without a bias, as a part of its own, to which no host says whether it has one.

    (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        sparsity: Annotated[float, Meta(ge=0, lt=1)] = 0.9,
        block_size: Annotated[int, Meta(ge=1)] = 1,
        ratio: Annotated[float, Meta(gt=0)] | None = None,
    ):
        super().__init__(dim, out_dim, sparsity=sparsity, block_size=block_size, ratio=ratio, bias=False)
