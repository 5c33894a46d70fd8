"""The gated residual of EfficientViM: each channel learns how much of the branch it takes for its skip.

Paper: arXiv:2411.15241. Upstream: mlvlab/EfficientViM (MIT).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import per_channel, run
from blocks.context import Context
from blocks.folding import absorb_skip, fold_neighbours
from blocks.registry import block
from blocks.wiring.drop_path import drop_path as dropped
from blocks.wiring.parts import Parts, add_parts


@block("gated", kind="wiring", abilities=("causal", "noncausal", "any_resolution"), paper="arXiv:2411.15241")
class Gated(nn.Module):
    """y = (1 - sigmoid(alpha)) * x + sigmoid(alpha) * f(x), where f runs the parts one after the other.

    (B, C, H, W) or (B, L, C) -> the same shape. `alpha` (C,) starts from the value given. In training f(x) is left out
    of a sample with probability `drop_path`. `fuse()` folds the parts into each other, and x with the gate into a part
    that can take them (a depthwise convolution). Raises ValueError when the parts change the width.
    """

    def __init__(
        self,
        dim: int,
        *,
        parts: Annotated[Parts, Meta(min_length=1)],
        alpha: float = 1e-4,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.initial = alpha
        self.drop_path = drop_path
        self.alpha = nn.Parameter(torch.empty(dim))
        width = add_parts(self, parts, dim)
        if width != dim:
            raise ValueError(
                f"the parts lead from {dim} to {width} channels, and the gate needs the same; "
                f"give the last one out_dim = {dim}"
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.alpha, self.initial)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        y = x
        for part in self._modules.values():
            y = run(part, y, ctx)  # type: ignore[arg-type]
        gate = per_channel(self.alpha.sigmoid(), x).to(x.dtype)
        # one pass over memory; autocast may have left y in another dtype, which lerp does not take
        return torch.lerp(x, dropped(y, self.drop_path, self.training).to(x.dtype), gate)

    def fuse(self) -> nn.Module:
        fold_neighbours(self, list(self._modules))
        gate = self.alpha.detach().sigmoid()
        return absorb_skip(self, gate, 1 - gate)
