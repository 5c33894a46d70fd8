"""The sigmoid's approximation of GELU, which CLIP was trained with."""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.primitives.activations import EVERYWHERE, Pointwise
from blocks.registry import block


@block("quick_gelu", kind="act", abilities=EVERYWHERE, paper="arXiv:1606.08415")
class QuickGelu(Pointwise):
    """y = x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)
