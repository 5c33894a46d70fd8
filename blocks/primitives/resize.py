"""Maps of another size: by a factor, or as large as another map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.registry import block
from blocks.registry.errors import SizeError

Factor = Annotated[int, Meta(ge=1, le=64)]

_shapes_only: ContextVar[bool] = ContextVar("whether maps are resized in shape alone", default=False)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Within it maps are resized in shape alone: for a trial run on meta."""
    token = _shapes_only.set(True)
    try:
        yield
    finally:
        _shapes_only.reset(token)


Mode = Literal["nearest", "bilinear", "bicubic", "area"]


def resized(x: Tensor, size: Sequence[int], mode: str, align_corners: bool = False) -> Tensor:
    """(B, C, H, W) -> (B, C, *size); x itself where it has that size."""
    if x.shape[2:] == size:
        return x
    if not torch.compiler.is_compiling() and _shapes_only.get():  # torch's own way on meta takes milliseconds
        return x.new_empty(*x.shape[:2], *size)
    corners = align_corners if mode in ("bilinear", "bicubic") else None
    return F.interpolate(x, size=list(size), mode=mode, align_corners=corners)


@block("resize", kind="pool", layout="BCHW", abilities=("any_resolution", "2d"))
class Resize(nn.Module):
    """y = x enlarged `scale` times, or with a scale below 1 made smaller.

    (B, C, H, W) -> (B, C, floor(scale H), floor(scale W)). `align_corners` lets the corners of both maps lie on each other.
    """

    def __init__(
        self,
        *,
        scale: Annotated[float, Meta(gt=0, le=64)] = 2.0,
        mode: Mode = "nearest",
        align_corners: bool = False,
    ):
        super().__init__()
        self.scale, self.mode = scale, mode
        self.align_corners = align_corners if mode in ("bilinear", "bicubic") else None

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.scale, mode=self.mode, align_corners=self.align_corners)


@block(
    "pixel_shuffle",
    kind="downsample",
    layout="BCHW",
    abilities=("any_resolution", "2d"),
    paper="arXiv:1609.05158",
)
class PixelShuffle(nn.Module):
    """Each `scale`^2 channels in a row become the scale x scale pixels of one, row by row.

    (B, C, H, W) -> (B, C / scale^2, scale H, scale W). With `pixels_first` channels are those of the first pixel, then those of the next,
    as in the last layer of diffusion transformers. Raises ValueError for a width that scale^2 does not divide.
    """

    def __init__(
        self,
        dim: int,
        *,
        scale: Factor = 2,
        pixels_first: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = False,
    ):
        super().__init__()
        if dim % scale**2:
            raise ValueError(f"{dim} channels are no whole number of cells of {scale} x {scale} pixels")
        self.scale, self.out_dim, self.pixels_first = scale, dim // scale**2, pixels_first

    def forward(self, x: Tensor) -> Tensor:
        if self.pixels_first:
            cells = x.permute(0, 2, 3, 1).unflatten(3, (self.scale, self.scale, self.out_dim))
            return cells.transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
        cells = x.permute(0, 2, 3, 1).unflatten(3, (self.out_dim, self.scale, self.scale))
        return cells.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


@block("pixel_unshuffle", kind="downsample", layout="BCHW", abilities=("2d",))
class PixelUnshuffle(nn.Module):
    """The inverse of `pixel_shuffle`: the scale x scale pixels of each cell become channels in a row.

    (B, C, H, W) -> (B, scale^2 C, H / scale, W / scale). Raises ValueError for a map that is not made of whole cells.
    """

    def __init__(self, dim: int, *, scale: Factor = 2):
        super().__init__()
        self.scale, self.out_dim = scale, dim * scale**2

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % self.scale or x.shape[3] % self.scale:
            raise SizeError(f"a map of {tuple(x.shape[2:])} pixels is not made of cells of {self.scale} x {self.scale}")
        cells = x.permute(0, 2, 3, 1).unflatten(2, (-1, self.scale)).unflatten(1, (-1, self.scale))
        return cells.permute(0, 1, 3, 5, 2, 4).flatten(3).permute(0, 3, 1, 2)


@block("same_pad", kind="downsample", layout="BCHW", abilities=("any_resolution", "2d"))
class SamePad(nn.Module):
    """The border with which a k x k kernel gives ceil(H / stride) rows: TensorFlow's, whose longer side is below and to the right.

    (B, C, H, W) -> (B, C, H', W'), for a kernel without a border of its own. `fill`: zeros, or what no maximum takes.
    """

    def __init__(self, *, kernel_size: Factor = 3, stride: Factor = 2, fill: Literal["zero", "lowest"] = "zero"):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        self.value = 0.0 if fill == "zero" else float("-inf")

    def forward(self, x: Tensor) -> Tensor:
        down, across = (self._missing(size) for size in x.shape[2:])
        return F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2), value=self.value)

    def _missing(self, size: int) -> int:
        return max((size - 1) // self.stride * self.stride + self.kernel_size - size, 0)
