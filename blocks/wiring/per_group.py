"""Groups of channels as samples of their own: one net for all bands of a spectrum. Paper: arXiv:2010.15508 (FullSubNet)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import as_stream, as_tokens, run
from blocks.context import Context
from blocks.folding import fold_neighbours
from blocks.registry import block
from blocks.wiring.parts import Parts, add_parts


@block("per_group", kind="wiring", abilities=("any_resolution",), paper="arXiv:2010.15508")
class PerGroup(nn.Module):
    """y = the outputs of the parts for each of `groups` groups of channels, one behind the other; all groups meet the same weights.

    (B, L, G C), or (B, G C, H, W) as tokens -> (B, L, G C'). Raises ValueError where the groups do not divide the width.
    """

    def __init__(
        self, dim: int, *, parts: Annotated[Parts, Meta(min_length=1)], groups: Annotated[int, Meta(ge=1, le=65536)] = 2
    ):
        super().__init__()
        if dim % groups:
            raise ValueError(f"{groups} groups do not divide {dim} channels")
        self.groups = groups
        self.out_dim = groups * add_parts(self, parts, dim // groups, dim // groups)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if ctx is not None and (ctx.mask is not None or ctx.cu_seqlens is not None):
            raise ValueError("groups of channels are samples here, for which padding and packed sequences do not hold")
        tokens = as_tokens(x)
        B, L, C = tokens.shape
        y = tokens.reshape(B, L, self.groups, C // self.groups).transpose(1, 2).flatten(0, 1)
        for part in self._modules.values():
            y = run(part, y, ctx)  # type: ignore[arg-type]
        return as_stream(y.reshape(B, self.groups, L, y.shape[-1]).transpose(1, 2).flatten(2), x)

    def fuse(self) -> nn.Module:
        fold_neighbours(self, list(self._modules))
        return self
