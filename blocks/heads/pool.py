"""From a map or tokens to one vector: the pooling that every classification head begins with."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Pool = Literal["avg", "max", "avgmax"]


def pooled(x: Tensor, pool: Pool) -> Tensor:
    """(B, C, H, W) or (B, L, C) -> (B, C): the mean over all positions, the maximum, or the mean of both."""
    positions = (2, 3) if x.ndim == 4 else (1,)
    if pool == "avg":
        return x.mean(positions)
    if pool == "max":
        return x.amax(positions)
    return (x.mean(positions) + x.amax(positions)) / 2
