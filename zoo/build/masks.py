"""Masks of tokens as people and other libraries give them: truths, or ones and zeros, in tensors, arrays and lists."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.errors import InputError, Problem


def as_mask(mask: Any, ids: Tensor, where: str) -> Tensor:
    """Booleans (B, L) of the shape of `ids`, True at real tokens. Raises InputError, whose subject is `where`, for all else."""
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == ids.shape:
        return mask
    try:
        values = torch.as_tensor(mask, device=ids.device)
    except (TypeError, ValueError, RuntimeError):  # ragged lists, words, objects
        found = f"a {type(mask).__name__} that is no mask"
    else:
        real = values == 1
        if real.shape == ids.shape and bool((real | (values == 0)).all()):
            return real
        found = f"{values.dtype} {tuple(values.shape)}"
    expected = f"truths, or ones and zeros, of the shape of the tokens, {tuple(ids.shape)}"
    raise InputError(where, Problem("mask", expected, found))
