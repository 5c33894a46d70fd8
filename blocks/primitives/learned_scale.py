"""One learned number that all of a map is multiplied with, as behind the boxes of each level of a detector. Paper: arXiv:1904.01355 (FCOS)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blocks.registry import block


@block("learned_scale", kind="act", abilities=("causal", "noncausal", "any_resolution"), paper="arXiv:1904.01355")
class LearnedScale(nn.Module):
    """y = scale * x with one learned number, which starts at `start`.

    Any shape -> the same shape. `fuse()` of what holds it folds the number into the map before it, or behind it.
    """

    def __init__(self, *, start: float = 1.0):
        super().__init__()
        self.start = start
        self.scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.scale, self.start)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale

    def as_affine(self) -> tuple[Tensor, Tensor]:
        scale = self.scale.detach().view(1)
        return scale, torch.zeros_like(scale)
