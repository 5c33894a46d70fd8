"""Restormer's gated feed-forward layer. Paper: arXiv:2111.09881. Names of the state are those of swz30/Restormer."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.conv.conv import Conv
from blocks.registry import block
from blocks.registry.slots import Act, Linear, slot


@block(
    "gated_dconv_mlp",
    kind="channel_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2111.09881",
    covers=("gdfn",),
)
class GatedDconvMlp(nn.Module):
    """[u | v] = DW_3 W_1 x; y = W_2(act(u) * v): a gate and what it opens, both of which see their neighbours.

    (B, C, H, W) -> (B, C, H, W). The hidden width is int(ratio * C).
    """

    def __init__(
        self,
        dim: int,
        *,
        ratio: Annotated[float, Meta(gt=0)] = 2.66,
        act: Act = slot("gelu"),
        bias: bool = False,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        hidden_dim = int(dim * ratio)
        self.project_in = linear(dim, 2 * hidden_dim, bias=bias)
        self.dwconv = Conv(2 * hidden_dim, groups=2 * hidden_dim, bias=bias)
        self.act = act(hidden_dim)
        self.project_out = linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        gate, value = self.dwconv(run(self.project_in, x, ctx)).chunk(2, 1)
        return run(self.project_out, run(self.act, gate, ctx) * value, ctx)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.project_out.absorb_output(scale, shift))  # type: ignore[operator]
