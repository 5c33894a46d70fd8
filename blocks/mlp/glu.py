"""The gate of a gated linear unit, by itself. Paper: arXiv:2002.05202."""

from __future__ import annotations

from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.registry import block
from blocks.registry.slots import Act, slot


@block("glu", kind="downsample", abilities=("causal", "noncausal", "any_resolution"), paper="arXiv:2002.05202")
class Glu(nn.Module):
    """y = act(a) * b with [a | b] = x: the first half of the channels gates the second.

    (B, C, H, W) or (B, L, C) -> the same with C / 2 channels. Where both maps and the map behind are of one kind, `gated_mlp` is the
    whole. Raises ValueError for an odd number of channels.
    """

    def __init__(self, dim: int, *, act: Act = slot("silu")):
        super().__init__()
        if dim % 2:
            raise ValueError(f"{dim} channels have no halves; {dim + 1} would do")
        self.out_dim = dim // 2
        self.act = act(self.out_dim)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        gate, value = x.chunk(2, 1 if x.ndim == 4 else -1)
        return run(self.act, gate, ctx) * value
