"""What structured linear maps share: layouts, the bias, their work, folding; and the block-diagonal product they are made of.

Rows are the positions, all in one axis: N.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EVERYWHERE = ("causal", "noncausal", "any_resolution")


class StructuredLinear(nn.Module):
    """y = W x + b along the channels, where W is never written out but multiplied by, factor after factor.

    (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels. Widths that the factors do not divide are filled
    up with zeros before and cut after them. `lr_scales` are the factors of the learning rate, by parameter, that give a
    factor updates of the size that a dense W would have. The bias starts at 0.
    """

    fresh = True

    bias: nn.Parameter | None

    def __init__(self, dim: int, out_dim: int | None, bias: bool):
        super().__init__()
        self.dim, self.out_dim = dim, out_dim or dim
        self.lr_scales: dict[str, float] = {}
        self.register_parameter("bias", nn.Parameter(torch.zeros(self.out_dim)) if bias else None)

    def reset_parameters(self) -> None:
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def product(self, x: Tensor) -> Tensor:
        """W x for each row: (N, dim) -> (N, out_dim)."""
        raise NotImplementedError  # each structure has its own; this class is their common part

    def scale_rows(self, scale: Tensor) -> None:
        """W <- diag(scale) W, scale (out_dim,)."""
        raise NotImplementedError  # each structure has its own; this class is their common part

    def scale_columns(self, scale: Tensor) -> None:
        """W <- W diag(scale), scale (dim,)."""
        raise NotImplementedError  # each structure has its own; this class is their common part

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Every weight is met once by every row."""
        weights = sum(
            weight.numel() for name, weight in self._parameters.items() if weight is not None and name != "bias"
        )
        return {"matmul": math.prod(shape) // self.dim * weights}

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
        y = self.product(rows.reshape(-1, self.dim))
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)  # under autocast the product is narrower
        y = y.reshape(*rows.shape[:-1], self.out_dim)
        return y.permute(0, 3, 1, 2) if x.ndim == 4 else y

    @torch.no_grad()
    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        self.scale_rows(scale)
        self._set_bias(shift if self.bias is None else self.bias * scale + shift)
        return True

    @torch.no_grad()
    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        moved = self.product(shift.unsqueeze(0)).squeeze(0)
        self.scale_columns(scale)
        self._set_bias(moved if self.bias is None else self.bias + moved)
        return True

    def _set_bias(self, value: Tensor) -> None:
        self.bias = nn.Parameter(value.clone(), requires_grad=False)


def block_diagonal(x: Tensor, weight: Tensor) -> Tensor:
    """Each of K pieces of x through a matrix of its own: x (N, K, P), weight (K, Q, P) -> (K, N, Q)."""
    return torch.bmm(x.transpose(0, 1), weight.mT)


def filled_up(x: Tensor, width: int, value: float = 0.0) -> Tensor:
    """x (..., C) with `value` behind its last channel, up to `width` channels."""
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]), value=value)


def pieces(width: int, count: int) -> int:
    """How wide each of `count` equal pieces is that together hold `width` channels."""
    return -(-width // count)


def grid(width: int) -> tuple[int, int]:
    """(rows, columns) of a nearly square table of `width` cells, or of a few more where none is nearly square."""
    root = math.isqrt(width)
    rows = max(divisor for divisor in range(1, root + 1) if width % divisor == 0)
    rows = rows if 2 * rows >= root else root
    return rows, pieces(width, rows)


def uniform_by_fan_in(weight: Tensor) -> None:
    """Even between +-1 / sqrt(fan-in): what torch does for a linear layer, for each block of (K, Q, P)."""
    bound = weight.shape[-1] ** -0.5
    nn.init.uniform_(weight, -bound, bound)
