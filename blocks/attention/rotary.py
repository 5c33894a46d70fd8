"""Rotary positions: pairs of channels turned by angles that grow with the position. Paper: arXiv:2104.09864."""

from __future__ import annotations

import torch
from torch import Tensor


def positions_after(x: Tensor, seen: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(positions (B, L) of the tokens of x (B, L, ...), how many tokens there are then (B,)); `seen` (B,) came before."""
    before = torch.zeros(len(x), dtype=torch.int64, device=x.device) if seen is None else seen
    where = before.unsqueeze(1) + torch.arange(x.shape[1], device=x.device)
    return where, before + (x.shape[1] if mask is None else mask.sum(1))


def rotated(x: Tensor, positions: Tensor, base: float = 10000.0, dims: int | None = None) -> Tensor:
    """The first `dims` channels (all, without a value) of x (B, L, H, K) turned by positions (B, L) base^(-2 i / dims).

    Channel i is turned with channel i + dims / 2, as in Llama's checkpoints. Angles in float32 at least.
    """
    dims = x.shape[-1] if dims is None else dims
    wide = torch.promote_types(x.dtype, torch.float32)
    turns = base ** (-torch.arange(0, dims, 2, device=x.device, dtype=wide) / dims)
    angle = (positions.to(wide).unsqueeze(-1) * turns).unsqueeze(2)
    cos, sin = angle.cos(), angle.sin()
    left, right = x[..., :dims].to(wide).chunk(2, -1)
    turned = torch.cat([left * cos - right * sin, right * cos + left * sin], -1).to(x.dtype)
    return turned if dims == x.shape[-1] else torch.cat([turned, x[..., dims:]], -1)
