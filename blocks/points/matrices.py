"""Features of atoms that are 3 x 3 matrices, one for each channel, and what may be done with them while they turn with the molecule.

A matrix is a number times 1, a skew part and a symmetric part without a trace; maps of the channels mix those of a kind (TensorNet).
They lie as tokens, (N, 9, C), row by row; n x n matrices as (N, n^2, C). Paper: arXiv:2306.06482.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from blocks.chain import run
from blocks.points.neighbours import listed
from blocks.registry import block
from blocks.registry.slots import Linear, slot


def as_matrices(x: Tensor) -> Tensor:
    """(N, n^2, C) -> (N, n, n, C). Raises ValueError for tokens that are no square."""
    side = math.isqrt(x.shape[1])
    if side * side != x.shape[1] or not side:
        raise ValueError(f"matrices are (N, n * n, C), and {tuple(x.shape)} has {x.shape[1]} entries")
    return x.unflatten(1, (side, side))


def kinds(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, n^2, C) -> the mean of the diagonal (N, 1, C), the skew part and the symmetric part without a trace, (N, n^2, C)."""
    matrices = as_matrices(x)
    across = matrices.transpose(1, 2)
    mean = matrices.diagonal(dim1=1, dim2=2).mean(-1).unsqueeze(1)
    return (
        mean,
        (0.5 * (matrices - across)).flatten(1, 2),
        (0.5 * (matrices + across)).flatten(1, 2) - diagonal(mean, x),
    )


def diagonal(mean: Tensor, like: Tensor) -> Tensor:
    """Numbers (N, 1, C) times 1, as matrices (N, n^2, C)."""
    one = torch.eye(math.isqrt(like.shape[1]), dtype=mean.dtype, device=mean.device)
    return mean * one.view(1, -1, 1)


@block("pair_matrices", kind="merge", paper="arXiv:2306.06482")
class PairMatrices(nn.Module):
    """X_i = sum_k a_ik 1 + b_ik skew(u_ik) + c_ik (u_ik u_ik^T - |u_ik|^2 1 / 3): what an atom sees around it.

    Weights (N, K, 3 C), which are a, b and c, and directions (N, K, 3) -> (N, 9, C).
    """

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()
        if len(dims) != 2 or dims[0] % 3 or dims[1] != 3:
            raise ValueError(f"weights of three kinds and directions are needed; there are widths {dims}")
        self.out_dim = dims[0] // 3

    def macs(self, weights: tuple[int, ...], directions: tuple[int, ...]) -> dict[str, int]:
        """u u^T, and sums over K of 9 entries of two kinds: N K (9 + 18 C)."""
        return {"matmul": weights[0] * weights[1] * (9 + 18 * self.out_dim)}

    def forward(self, weights: Tensor, directions: Tensor) -> Tensor:
        a, b, c = weights.chunk(3, -1)
        x, y, z = directions.unbind(-1)
        none = torch.zeros_like(x)
        skew = torch.stack([none, -z, y, z, none, -x, -y, x, none], 1)  # (N, 9, K)
        outer = (directions.unsqueeze(-1) @ directions.unsqueeze(-2)).flatten(2)  # (N, K, 9)
        square = outer.mT - diagonal(directions.square().sum(-1).unsqueeze(1) / 3, outer.mT)
        total = a.sum(1, keepdim=True)
        return diagonal(total, outer.mT) + skew @ b + square @ c


@block("matrix_messages", kind="merge", paper="arXiv:2306.06482")
class MatrixMessages(nn.Module):
    """M_i = sum_k a_ik I_n + b_ik A_n + c_ik S_n: the parts of the matrices of the neighbours n = n_ik, each kind with a weight of its own.

    Matrices (N, 9, C), weights (N, K, 3 C), and a list of neighbours (N, K) -> (N, 9, C).
    """

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()
        if len(dims) != 3 or dims[1] != 3 * dims[0]:
            raise ValueError(f"matrices, three weights for each, and a list are needed; there are widths {dims}")
        self.out_dim = dims[0]

    def forward(self, x: Tensor, weights: Tensor, index: Tensor) -> Tensor:
        pairs = zip(kinds(x), weights.chunk(3, -1), strict=True)
        mean, skew, symmetric = ((listed(part, index) * weight.unsqueeze(2)).sum(1) for part, weight in pairs)
        return diagonal(mean, x) + skew + symmetric


@block("matrix_linear", kind="channel_mixer", layout="BLC", paper="arXiv:2306.06482")
class MatrixLinear(nn.Module):
    """y = W_I I + W_A A + W_S S, where x = I + A + S: a linear map of the channels for each kind of matrix.

    (N, n^2, C) -> (N, n^2, C). Raises ValueError for tokens that are no square.
    """

    def __init__(self, dim: int, *, linear: Linear = slot("dense")):
        super().__init__()
        self.mean, self.skew, self.symmetric = (linear(dim, dim, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        mean, skew, symmetric = kinds(x)
        return diagonal(run(self.mean, mean), x) + run(self.skew, skew) + run(self.symmetric, symmetric)


@block("matrix_scale", kind="norm", layout="BLC", paper="arXiv:2306.06482")
class MatrixScale(nn.Module):
    """y = x / (|x|^2 + 1), where |x|^2 is the sum of the squared entries of each channel.

    (N, L, C) -> (N, L, C).
    """

    def __init__(self, dim: int):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().sum(1, keepdim=True) + 1)


@block("matrix_squares", kind="pool", layout="BLC", abilities=("1d",), paper="arXiv:2306.06482")
class MatrixSquares(nn.Module):
    """|x|^2, or with `by_kind` |I|^2, |A|^2 and |S|^2, where x = I + A + S: numbers that stay when the molecule turns.

    (N, n^2, C) -> (N, C), or (N, 3 C). Raises ValueError for tokens that are no square, where kinds are asked for.
    """

    def __init__(self, dim: int, *, by_kind: bool = False):
        super().__init__()
        self.by_kind, self.out_dim = by_kind, 3 * dim if by_kind else dim

    def forward(self, x: Tensor) -> Tensor:
        if not self.by_kind:
            return x.square().sum(1)
        mean, skew, symmetric = kinds(x)
        whole = math.isqrt(x.shape[1]) * mean.square().sum(1)
        return torch.cat([whole, skew.square().sum(1), symmetric.square().sum(1)], -1)


@block("matrix_gates", kind="merge", paper="arXiv:2306.06482")
class MatrixGates(nn.Module):
    """y = a I + b A + c S, where x = I + A + S and the gates of an atom are a, b and c.

    (N, 9, C) and (N, 3 C) -> (N, 9, C).
    """

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()
        if len(dims) != 2 or dims[1] != 3 * dims[0]:
            raise ValueError(f"matrices and three gates for each are needed; there are widths {dims}")
        self.out_dim = dims[0]

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        a, b, c = gates.unsqueeze(1).chunk(3, -1)
        mean, skew, symmetric = kinds(x)
        return diagonal(a * mean, x) + b * skew + c * symmetric


@block("matrix_product", kind="merge", paper="arXiv:2306.06482")
class MatrixProduct(nn.Module):
    """y = X Y, or with `both` X Y + Y X, which a reflection leaves as it is, times `scale`; for each channel.

    Twice (N, n^2, C) -> (N, n^2, C). Raises ValueError for two widths, and for tokens that are no square.
    """

    def __init__(self, dims: tuple[int, ...], *, both: bool = False, scale: float = 1.0):
        super().__init__()
        if len(dims) != 2 or dims[0] != dims[1]:
            raise ValueError(f"two tensors of one width have a product; there are widths {dims}")
        self.both, self.scale, self.out_dim = both, scale, dims[0]

    def macs(self, shape: tuple[int, ...], *others: Any) -> dict[str, int]:
        """n^3 for each channel and product."""
        return {"matmul": (1 + self.both) * shape[0] * shape[2] * math.isqrt(shape[1]) ** 3}

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = as_matrices(x).permute(0, 3, 1, 2), as_matrices(y).permute(0, 3, 1, 2)
        product = a @ b + b @ a if self.both else a @ b
        return (product if self.scale == 1 else self.scale * product).permute(0, 2, 3, 1).flatten(1, 2)
