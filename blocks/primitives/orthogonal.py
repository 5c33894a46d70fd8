"""Orthonormal matrices in any dtype: torch decomposes none below float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def orthogonal_(weight: Tensor) -> Tensor:
    """Fills (M, N) with orthonormal rows, or columns where M > N, drawn in float32 at least. In place."""
    drawn = torch.empty_like(weight, dtype=widest(weight.dtype))
    return weight.copy_(nn.init.orthogonal_(drawn))


def orthonormal(x: Tensor) -> Tensor:
    """(..., M, N) -> (..., M, min(M, N)), in the dtype of x: columns that span those of x, Q of x = Q R."""
    return torch.linalg.qr(x.to(widest(x.dtype))).Q.to(x.dtype)


def widest(dtype: torch.dtype) -> torch.dtype:
    """The dtype itself, or float32 where that is wider."""
    return torch.promote_types(dtype, torch.float32)
