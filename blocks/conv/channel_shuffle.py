"""The channels of several groups in turn, so that what follows in groups sees all of them. Paper: arXiv:1707.01083 (ShuffleNet)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block


@block(
    "channel_shuffle",
    kind="downsample",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:1707.01083",
    covers=("shufflenet", "shufflenetv2"),
)
class ChannelShuffle(nn.Module):
    """y = the first channel of each group, the second of each, and so on.

    (B, C, H, W) -> (B, C, H, W). Raises ValueError where `groups` does not divide the width.
    """

    def __init__(self, dim: int, *, groups: Annotated[int, Meta(ge=2)] = 2):
        super().__init__()
        if dim % groups:
            raise ValueError(f"{dim} channels are not cut into {groups} groups of one width")
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        groups = x.permute(0, 2, 3, 1).unflatten(3, (self.groups, -1))
        return groups.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)
