"""Frames that a net meets as images, shown as the clips that they are of."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import as_frames
from blocks.registry import block

Size = tuple[int, ...]


@block("clips", kind="view", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class Clips(nn.Module):
    """Frames as clips: (B*T, C, H, W) -> (B, C, T, H, W) for T = `frames`, which follow each other on the batch axis.

    On the way out the frames follow each other again. Raises ValueError for frames that are no whole number of clips.
    """

    def __init__(self, *, frames: Annotated[int, Meta(ge=1, le=4096)] = 1):
        super().__init__()
        self.frames = frames

    def inner_size(self, size: Size) -> Size:
        return (self.frames, *size)

    def enter(self, x: Tensor) -> tuple[Tensor, None]:
        if x.shape[0] % self.frames:
            raise ValueError(f"{x.shape[0]} frames are no whole number of clips of {self.frames}")
        return x.unflatten(0, (-1, self.frames)).transpose(1, 2), None

    def exit(self, y: Tensor, memo: None) -> Tensor:
        return as_frames(y)
