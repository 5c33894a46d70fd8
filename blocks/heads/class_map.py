"""Classes at every pixel: the last convolution of nets that label maps, and of detectors with several boxes at each pixel."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from blocks.conv.conv import Conv, Padding
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]


@block("class_map", kind="whole", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class ClassMap(Conv):
    """y = W * x + b, num_classes channels for each of `per` boxes at every pixel.

    (B, C, H, W) -> (B, per * num_classes, H, W), as `conv`.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int,
        kernel_size: Count = 1,
        per: Count = 1,
        padding: Padding | None = None,
        bias: bool = True,
    ):
        super().__init__(dim, per * num_classes, kernel_size=kernel_size, padding=padding, bias=bias)
