"""The mean of several answers."""

from __future__ import annotations

from torch import Tensor, nn

from blocks.registry import block
from blocks.wiring.merges import one_width


@block("mean", kind="merge", abilities=("causal", "noncausal", "any_resolution"))
class Mean(nn.Module):
    """y = (x_1 + x_2 + … + x_n) / n.

    n x (B, C, H, W), or tokens -> the same shape. Raises ValueError for several widths.
    """

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()
        self.out_dim = one_width(dims)

    def forward(self, *tensors: Tensor) -> Tensor:
        y = tensors[0]
        for x in tensors[1:]:
            y = y + x
        return y / len(tensors)
