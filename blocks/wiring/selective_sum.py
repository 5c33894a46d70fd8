"""A sum whose parts are weighed channel by channel and pixel by pixel: which kernel counts, and where.

Paper: arXiv:2508.07300 (BEVANet, comprehensive kernel selection). Upstream: maomao0819/BEVANet (MIT).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import Chain, run
from blocks.conv.conv import Conv, ConvNormAct, conv2d
from blocks.registry import block
from blocks.registry.slots import slot
from blocks.wiring.merges import one_width

Count = Annotated[int, Meta(ge=1)]


@block(
    "selective_sum",
    kind="merge",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2508.07300",
    covers=("bevanet", "kernel_selection", "selective_kernel"),
)
class SelectiveSum(nn.Module):
    """y = sum_i c_i s_i x_i: c_i = sigmoid(E_i R mean_HW t) of each channel, s = sigmoid(K * [mean_C t | max_C t]) of each pixel, t = sum_i x_i.

    n x (B, C, H, W) -> (B, C, H, W). R and E_i are pointwise, depthwise 3 x 3, batch norm and ReLU, through max(C / `reduction`, `least`)
    channels; K is 7 x 7. Raises ValueError for several widths.
    """

    def __init__(self, dims: tuple[int, ...], *, reduction: Count = 16, least: Count = 32):
        super().__init__()
        self.out_dim = one_width(dims)
        hidden = max(self.out_dim // reduction, least)
        self.reduce = _unit(self.out_dim, hidden)
        self.expand = nn.ModuleList(_unit(hidden, self.out_dim) for _ in dims)
        self.squeeze = conv2d(2, len(dims), 7, padding=3)

    def forward(self, *tensors: Tensor) -> Tensor:
        total = torch.stack(tensors).sum(0)
        mean = self.reduce(total.mean((2, 3), keepdim=True))
        seen = torch.cat([total.mean(1, keepdim=True), total.amax(1, keepdim=True)], 1)
        places = run(self.squeeze, seen).sigmoid()
        return sum(
            x * expand(mean).sigmoid() * places[:, i : i + 1]
            for i, (x, expand) in enumerate(zip(tensors, self.expand, strict=True))
        )  # type: ignore[return-value]


def _unit(dim: int, out_dim: int) -> Chain:
    unit = Chain()
    unit.point = Conv(dim, out_dim, kernel_size=1)
    unit.deep = ConvNormAct(out_dim, groups=out_dim, norm=slot("batch_norm"), act=slot("relu"))
    return unit
