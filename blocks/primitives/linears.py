"""The dense linear map of the channels, the same at every position."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from blocks.folding import scale_input, scale_output
from blocks.registry import block

EVERYWHERE = ("causal", "noncausal", "any_resolution")


@block("dense", kind="linear", abilities=EVERYWHERE)
class Dense(nn.Linear):
    """y = W x + b along the channels; `weight` is (out, in) whatever the layout.

    (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels.
    """

    fresh = True

    def __init__(self, dim: int, out_dim: int | None = None, *, bias: bool = True):
        super().__init__(dim, out_dim or dim, bias=bias)
        self.out_dim = self.out_features

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)
        return F.linear(x, self.weight, self.bias)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        scale_output(self, scale, shift)
        return True

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        scale_input(self, scale, shift)
        return True


@block("matrix", kind="downsample", abilities=EVERYWHERE)
class Matrix(Dense):
    """y = W x along the channels: `dense` without a bias, as a part of its own, to which no host says whether it has one.

    (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels.
    """

    def __init__(self, dim: int, out_dim: int | None = None):
        super().__init__(dim, out_dim, bias=False)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return not shift.any() and super().absorb_output(scale, shift)

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return not shift.any() and super().absorb_input(scale, shift)
