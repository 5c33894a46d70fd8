"""Channels and positions that change places: sound comes with channels first."""

from __future__ import annotations

from torch import Tensor, nn

from blocks.registry import block


@block("swap_axes", kind="whole", layout="BLC", abilities=("1d",))
class SwapAxes(nn.Module):
    """y = x with its last two axes in the other order, (B, C, L) -> (B, L, C).

    `out_dim` is the width then, which the width before does not tell.
    """

    def __init__(self, dim: int, out_dim: int | None = None):
        super().__init__()
        self.out_dim = out_dim or dim

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)
