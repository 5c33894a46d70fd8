"""Hourglass MLP: the skip lives in a wide space, and each step through it goes by a narrow middle.

Paper: arXiv:2510.01796. No official code.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.mlp.mlp import Mlp, Ratio
from blocks.registry import block
from blocks.registry.slots import Act, Linear, Slot, slot


@block(
    "hourglass",
    kind="channel_mixer",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2510.01796",
    covers=("hourglass_mlp",),
)
class Hourglass(nn.Module):
    """y = W_out z_n with z_0 = W_in x and z_{i+1} = z_i + U_i act(V_i pre(z_i)): wide, narrow, wide.

    (B, C, H, W) or (B, L, C) -> the same shape. z has int(ratio * C) channels, the middle int(neck * C), and there are
    `depth` steps; as it stands that is the work of a plain MLP of ratio 4. A `frozen` W_in keeps its random start, as
    part of the state.
    """

    def __init__(
        self,
        dim: int,
        *,
        ratio: Ratio = 2.0,
        neck: Ratio = 0.5,
        depth: Annotated[int, Meta(ge=1)] = 2,
        frozen: bool = False,
        act: Act | None = slot("gelu"),
        bias: bool = True,
        pre: Slot | None = slot("layer_norm"),
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        wide_dim, neck_dim = int(ratio * dim), max(1, int(neck * dim))
        self.proj_in = linear(dim, wide_dim, bias=bias)
        self.proj_in.requires_grad_(not frozen)
        steps = (Mlp(wide_dim, hidden_dim=neck_dim, act=act, bias=bias, pre=pre, linear=linear) for _ in range(depth))
        self.steps = nn.ModuleList(steps)
        self.proj_out = linear(wide_dim, dim, bias=bias)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        z = run(self.proj_in, x, ctx)
        for step in self.steps:
            z = z + run(step, z, ctx)
        return run(self.proj_out, z, ctx)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.proj_out.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.proj_in.absorb_input(scale, shift))  # type: ignore[operator]
