"""How alike two streams are, pixel by pixel: what gates are made of."""

from __future__ import annotations

from torch import Tensor, nn

from blocks.registry import block
from blocks.wiring.merges import one_width


@block(
    "dot",
    kind="merge",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2206.02066",
    covers=("pagfm",),
)
class Dot(nn.Module):
    """y = sum_C x_1 x_2 …: one number at each position, how alike the tensors are there.

    n x (B, C, H, W) -> (B, 1, H, W), or n x (B, L, C) -> (B, L, 1). Raises ValueError for several widths.
    """

    out_dim = 1

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()
        one_width(dims)

    def forward(self, *tensors: Tensor) -> Tensor:
        y = tensors[0]
        for x in tensors[1:]:
            y = y * x
        return y.sum(1 if y.ndim > 3 else -1, keepdim=True)
