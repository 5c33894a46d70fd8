"""Some of the channels, the others left out."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block


@block("channels", kind="downsample", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class Channels(nn.Module):
    """y = the channels of x from `start` on, `count` of them, or all that are left.

    (B, C, H, W) -> (B, count, H, W). Raises ValueError for channels that are not there.
    """

    def __init__(
        self, dim: int, *, start: Annotated[int, Meta(ge=0)] = 0, count: Annotated[int, Meta(ge=1)] | None = None
    ):
        super().__init__()
        self.start, self.out_dim = start, dim - start if count is None else count
        if self.out_dim < 1 or start + self.out_dim > dim:
            raise ValueError(f"{self.out_dim} channels from {start} on are not there among {dim}")

    def forward(self, x: Tensor) -> Tensor:
        return x.narrow(1, self.start, self.out_dim)
