"""A scale and a shift per channel, with nothing standardised before. Papers: arXiv:2105.03404 (ResMLP), arXiv:2206.00888 (Squeezeformer)."""

from __future__ import annotations

from torch import Tensor

from blocks.chain import per_channel
from blocks.primitives.norms import Affine
from blocks.registry import block


@block(
    "affine",
    kind="norm",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2105.03404",
    covers=("adaptive_scale",),
)
class AffineMap(Affine):
    """y = weight * x + bias, per channel.

    (B, C, H, W), (B, L, C) or (B, C) -> the same shape. `fuse()` folds it into its neighbours.
    """

    def __init__(self, dim: int):
        super().__init__(dim, 0.0, bias=True)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        y = x * per_channel(self.weight, x)
        return y if self.bias is None else y + per_channel(self.bias, x)

    def as_affine(self) -> tuple[Tensor, Tensor]:
        """(scale, shift)."""
        return self.weight.detach(), self.bias.detach() if self.bias is not None else self.weight.detach() * 0
