"""The residual wiring, with the scales that MetaFormer and its relatives put on branch and skip."""

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


@block("residual", kind="wiring", abilities=("causal", "noncausal", "any_resolution"), paper="arXiv:1512.03385")
class Residual(nn.Module):
    """y = skip_scale * x + scale * f(x), where f runs the parts one after the other.

    (B, C, H, W) or (B, L, C) -> the same shape. `scale` (C,) and `skip_scale` (C,) are learned where the spec gives the
    value that they start from (LayerScale, arXiv:2103.17239; ResScale, arXiv:2110.09456), and are 1 where it does not.
    In training f(x) is left out of a sample with probability `drop_path`. `fuse()` folds the parts into each other, the
    scale into the last, and x itself into a part that can take it (a depthwise convolution). Raises ValueError when the parts change the width.
    """

    scale: nn.Parameter | None
    skip_scale: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        *,
        parts: Annotated[Parts, Meta(min_length=1)],
        scale: float | None = None,
        skip_scale: float | None = None,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.initial = {"scale": scale, "skip_scale": skip_scale}
        self.drop_path = drop_path
        for name, value in self.initial.items():
            self.register_parameter(name, None if value is None else nn.Parameter(torch.empty(dim)))
        width = add_parts(self, parts, dim)
        if width != dim:
            raise ValueError(
                f"the parts lead from {dim} to {width} channels, and x + f(x) needs the same; "
                f"give the last one out_dim = {dim}"
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for name, value in self.initial.items():
            if value is not None:
                nn.init.constant_(getattr(self, name), value)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        y = x
        for part in self._modules.values():
            y = run(part, y, ctx)  # type: ignore[arg-type]
        if self.scale is not None:
            y = y * per_channel(self.scale, y)
        y = dropped(y, self.drop_path, self.training)
        return (x if self.skip_scale is None else x * per_channel(self.skip_scale, x)) + y

    def fuse(self) -> nn.Module:
        fold_neighbours(self, list(self._modules))
        absorb = getattr(next(reversed(self._modules.values()), None), "absorb_output", None)
        if self.scale is not None and absorb is not None and absorb(self.scale, torch.zeros_like(self.scale)):
            self.scale = None
        scale, skip = (1.0 if value is None else value for value in (self.scale, self.skip_scale))
        return absorb_skip(self, scale, skip)
