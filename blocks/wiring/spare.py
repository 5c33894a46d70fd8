"""Parts that checkpoints have and nets do not run."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block
from blocks.wiring.parts import Parts, add_parts


@block("spare", kind="wiring", abilities=("causal", "noncausal", "any_resolution"))
class Spare(nn.Module):
    """y = x; the parts stand in the state, where a checkpoint of others has them, and nothing runs or trains them.

    Any shape -> the same shape. `fuse()` leaves them out.
    """

    def __init__(self, dim: int, *, parts: Annotated[Parts, Meta(min_length=1)]):
        super().__init__()
        add_parts(self, parts, dim)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def fuse(self) -> None:
        return None
