"""The ladder residual: a branch reads the stream as it was before the branch ahead of it, so that both can be under way at once.

Paper: arXiv:2501.06589. Upstream: mayank31398/ladder-residual-inference (BSD-3-Clause).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.registry import block
from blocks.wiring.drop_path import drop_path as dropped
from blocks.wiring.parts import Parts, add_parts

STALE = "ladder.stale"
"""The slot in which the stream stands as it was before the branch ahead."""


@block("ladder", kind="wiring", abilities=("causal", "noncausal", "any_resolution"), paper="arXiv:2501.06589")
class Ladder(nn.Module):
    """y = x + f(s), s the stream before the branch ahead of this one was added, and x itself for the first of a model.

    (B, C, H, W) or (B, L, C) -> the same shape. Where the parts of a model lie on several devices, the sum over devices of one branch
    runs while the next one computes. With `stale` false f reads x, and the next ladder still reads what was before: the layer of a
    model of which only later ones are converted. Without a ctx, s is x. In training f is left out of a sample with probability
    `drop_path`. Raises ValueError when the parts change the width.
    """

    path = ""

    def __init__(
        self,
        dim: int,
        *,
        parts: Annotated[Parts, Meta(min_length=1)],
        stale: bool = True,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.stale, self.drop_path = stale, drop_path
        self.reads = STALE
        width = add_parts(self, parts, dim)
        if width != dim:
            raise ValueError(
                f"the parts lead from {dim} to {width} channels, and x + f(s) needs the same; "
                f"give the last one out_dim = {dim}"
            )

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        y = x
        if ctx is not None:
            y = ctx.read(STALE).get("", x) if self.stale else x
            ctx.write(STALE, "", x)
        for part in self._modules.values():
            y = run(part, y, ctx)  # type: ignore[arg-type]
        return x + dropped(y, self.drop_path, self.training)
