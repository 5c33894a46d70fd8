"""From a map or tokens to one vector: the pooling that every classification head begins with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from blocks.context import Context
from blocks.ops.masks import token_mask
from blocks.places import has_places

Pool = Literal["avg", "max", "avgmax", "first"]


def pooled(x: Tensor, pool: Pool, ctx: Context | None = None) -> Tensor:
    """(B, C, H, W) or (B, L, C) -> (B, C): the mean over all positions but padding, the maximum, the mean of both, or the first.

    Raises ValueError for an input without positions.
    """
    if has_places(ctx):
        return _pooled_tokens(x.flatten(2).transpose(1, 2) if x.ndim == 4 else x, pool, ctx)
    positions = (2, 3) if x.ndim == 4 else (1,)
    if type(x) is Tensor and not x.numel() and x.shape[0]:
        raise ValueError(f"a head gathers positions into one vector, and an input of shape {tuple(x.shape)} has none")
    if pool == "first":
        return x[:, :, 0, 0] if x.ndim == 4 else x[:, 0]
    if pool == "avg":
        return x.mean(positions)
    if pool == "max":
        return x.amax(positions)
    return (x.mean(positions) + x.amax(positions)) / 2


def _pooled_tokens(x: Tensor, pool: Pool, ctx: Context) -> Tensor:
    """`pooled` over the real tokens of x (B, L, C), 0 where a sample has none. Raises ValueError for packed sequences."""
    mask = token_mask(x, ctx)
    if mask is None or pool == "first":
        return pooled(x, pool)
    real = mask.bool().unsqueeze(-1)
    mean = x.masked_fill(~real, 0).sum(1) / real.sum(1).clamp_min(1)
    if pool == "avg":
        return mean
    most = x.masked_fill(~real, -torch.inf).amax(1).masked_fill(~real.any(1), 0)
    return most if pool == "max" else (mean + most) / 2
