"""The residual wiring, with the scales that MetaFormer and its relatives put on branch and skip."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import is_fresh, may_overwrite, per_channel, run
from blocks.context import Context
from blocks.folding import absorb_skip, fold_neighbours
from blocks.registry import block
from blocks.registry.slots import Slot
from blocks.wiring.drop_path import drop_path as dropped
from blocks.wiring.parts import Parts, add_parts


@block("residual", kind="wiring", abilities=("causal", "noncausal", "any_resolution"), paper="arXiv:1512.03385")
class Residual(nn.Module):
    """y = skip_scale * s(x) + scale * f(x), where f runs the parts one after the other and s is the `shortcut`, or x itself.

    (B, C, H, W) or (B, L, C) -> the same shape, or what shortcut and parts both lead to. `scale` (C,) and `skip_scale`
    (C,) are learned where the spec gives the value that they start from (LayerScale, arXiv:2103.17239; ResScale,
    arXiv:2110.09456), and are 1 where it does not; with `scalars` each is one number (1,) for all channels. In training f(x)
    is left out of a sample with probability `drop_path`.
    `fuse()` folds the parts into each other, the scale into the last, and x itself into a part that can take it (a
    depthwise convolution). Raises ValueError when the parts change the width and no shortcut does the same.
    """

    fresh = True

    scale: nn.Parameter | None
    skip_scale: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        parts: Annotated[Parts, Meta(min_length=1)],
        shortcut: Annotated[Slot | None, Meta(extra_json_schema={"added": "0.1"})] = None,
        scale: float | None = None,
        skip_scale: float | None = None,
        scalars: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = False,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.shortcut = shortcut(dim, out_dim) if shortcut else None
        self.out_dim = getattr(self.shortcut, "out_dim", dim)
        self.initial = {"scale": scale, "skip_scale": skip_scale}
        self.drop_path = drop_path
        size = 1 if scalars else self.out_dim
        for name, value in self.initial.items():
            self.register_parameter(name, None if value is None else nn.Parameter(torch.empty(size)))
        width = add_parts(self, parts, dim, self.out_dim)
        if width != self.out_dim:
            needs = "x + f(x) needs the same" if self.shortcut is None else f"the shortcut to {self.out_dim}"
            raise ValueError(
                f"the parts lead from {dim} to {width} channels, and {needs}; give the last one out_dim = {self.out_dim}"
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for name, value in self.initial.items():
            if value is not None:
                nn.init.constant_(getattr(self, name), value)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        y, last = x, None
        for name, part in self._modules.items():
            if name != "shortcut" and part is not None:
                y, last = run(part, y, ctx), part
        if self.shortcut is not None:
            x = run(self.shortcut, x, ctx)
        if self.scale is not None:
            y = y * per_channel(self.scale, y)
        y = dropped(y, self.drop_path, self.training)
        if self.skip_scale is not None:
            x = x * per_channel(self.skip_scale, x)
        ours = self.scale is not None or (last is not None and is_fresh(last))
        if ours and may_overwrite(y) and y.dtype == x.dtype:
            return y.add_(x)  # saves the memory, and the time to fill it, of one more map
        return x + y

    def fuse(self) -> nn.Module:
        parts = [name for name in self._modules if name != "shortcut"]
        fold_neighbours(self, parts)
        last = next((self._modules[name] for name in reversed(parts) if name in self._modules), None)
        absorb = getattr(last, "absorb_output", None)
        if self.scale is not None and absorb is not None and absorb(self.scale, torch.zeros_like(self.scale)):
            self.scale = None
        if self.shortcut is not None:
            return self
        scale, skip = (1.0 if value is None else value for value in (self.scale, self.skip_scale))
        return absorb_skip(self, scale, skip)
