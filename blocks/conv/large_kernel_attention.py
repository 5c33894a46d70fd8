"""The large kernel attention of VAN: a map is multiplied by what a large kernel, taken apart, sees around each position.

Paper: arXiv:2202.09741. Upstream: Visual-Attention-Network/VAN-Classification (Apache-2.0).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.conv.conv import conv2d
from blocks.primitives.linears import Dense
from blocks.registry import block


@block(
    "large_kernel_attention",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2202.09741",
    covers=("lka", "van", "visual_attention_network"),
)
class LargeKernelAttention(nn.Module):
    """y = x * W(far(near x)): a K x K kernel in three parts, a near one, one with gaps, and a pointwise map.  (eqs. 1 and 2)

    (B, C, H, W) -> (B, C, H, W). With d = `dilation`, `near` is depthwise of 2 d - 1 rows and columns, which fill the gaps of `far`,
    depthwise of ceil(K / d), made odd, with dilation d; K is `kernel_size`. There is no softmax and no sigmoid: "attention"
    is the paper's word.
    """

    def __init__(
        self,
        dim: int,
        *,
        kernel_size: Annotated[int, Meta(ge=1, le=127)] = 21,
        dilation: Annotated[int, Meta(ge=1, le=31)] = 3,
    ):
        super().__init__()
        near, far = 2 * dilation - 1, -(-kernel_size // dilation) // 2 * 2 + 1
        self.near = conv2d(dim, dim, near, padding=near // 2, groups=dim)
        self.far = conv2d(dim, dim, far, padding=dilation * (far // 2), dilation=dilation, groups=dim)
        self.mix = Dense(dim)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mix(self.far(self.near(x)))
