"""The inverted separable convolution of MobileNetV2, as ConvFormer uses it for a token mixer.

Paper: arXiv:2210.13452. Upstream: sail-sg/metaformer (Apache-2.0).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor

from blocks.chain import Chain
from blocks.conv.conv import Conv
from blocks.registry import block
from blocks.registry.slots import Act, Linear, slot


@block(
    "separable_conv",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2210.13452",
    covers=("sepconv", "convformer"),
)
class SeparableConv(Chain):
    """y = W_2 act_2(DW_k act(W_1 x)), W_1: C -> ratio * C and W_2 back.

    (B, C, H, W) -> (B, C, H, W). Raises ValueError for an even kernel, which would change the size.
    """

    def __init__(
        self,
        dim: int,
        *,
        ratio: Annotated[float, Meta(gt=0)] = 2.0,
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 7,
        act: Act | None = slot("star_relu"),
        act2: Act | None = None,
        bias: bool = False,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        hidden_dim = int(dim * ratio)
        self.expand = linear(dim, hidden_dim, bias=bias)
        if act is not None:
            self.act = act(hidden_dim)
        self.conv = Conv(hidden_dim, kernel_size=kernel_size, groups=hidden_dim, bias=bias)
        if act2 is not None:
            self.act2 = act2(hidden_dim)
        self.project = linear(hidden_dim, dim, bias=bias)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return self.project.absorb_output(scale, shift)  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return self.expand.absorb_input(scale, shift)  # type: ignore[operator]
