"""What a router answers: for each token the experts it goes to, and how much each counts.

A router is a block of kind `router` with the attributes `num_experts` and `k`; T is here the number of tokens.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Routing(NamedTuple):
    """`weights` (T, k) and `indices` (T, k) into the experts, no expert twice in a row."""

    weights: Tensor
    indices: Tensor


def as_rows(x: Tensor) -> Tensor:
    """(B, C, H, W) or (B, L, C) -> (T, C), the tokens of the whole batch."""
    x = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
    return x.reshape(-1, x.shape[-1])
