"""gMLP: an MLP over the channels whose hidden half is gated by a linear map over the positions.

Paper: arXiv:2105.08050. No official weights; names of the state are those of timm's gMLP (Apache-2.0).
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import Chain
from blocks.context import Context
from blocks.places import refuse_places
from blocks.registry import block
from blocks.registry.errors import SizeError
from blocks.registry.slots import Act, Linear, slot


@block(
    "spatial_gating_mlp",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal",),
    paper="arXiv:2105.08050",
    covers=("gmlp", "spatial_gating_unit"),
)
class SpatialGatingMlp(Chain):
    """[u | v] = act(W_1 x); y = W_2(u * (W LN(v) + b)), W (L, L) over the positions.

    (B, L, C) -> (B, L, C) for the one L it was built for. u and v have half of int(ratio * C) channels each; W starts
    near 0 and b at 1, so that at first the gate is open. Raises ValueError for an odd hidden width and another length.
    """

    one_grid = True

    def __init__(
        self,
        dim: int,
        *,
        ratio: Annotated[float, Meta(gt=0)] = 6.0,
        act: Act | None = slot("gelu"),
        eps: Annotated[float, Meta(gt=0)] = 1e-6,
        bias: bool = True,
        linear: Annotated[Linear, Meta(extra_json_schema={"added": "0.1"})] = slot("dense"),
        input_size: tuple[int, ...] = (14, 14),
    ):
        super().__init__()
        hidden_dim = int(ratio * dim)
        if hidden_dim % 2 or hidden_dim == 0:
            raise ValueError(
                f"ratio {ratio:g} of {dim} channels is a hidden width of {hidden_dim}, which has no two halves; "
                f"the nearest ratio that works is {2 * max(1, round(hidden_dim / 2)) / dim:g}"
            )
        self.fc1 = linear(dim, hidden_dim, bias=bias)
        if act:
            self.act = act(hidden_dim)
        self.gate = SpatialGate(hidden_dim // 2, math.prod(input_size), eps)
        self.fc2 = linear(hidden_dim // 2, dim, bias=bias)
        self.input_size = tuple(input_size)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_places(self, ctx)
        if x.shape[1] != self.gate.proj.in_features:
            raise SizeError(
                f"this spatial_gating_mlp was built for {self.gate.proj.in_features} positions and meets {x.shape[1]}; "
                "build the model with that input size"
            )
        return super().forward(x, ctx)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.fc2.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.fc1.absorb_input(scale, shift))  # type: ignore[operator]


class SpatialGate(nn.Module):
    """u * (W LN(v) + b) for the halves [u | v] of the channels. (B, L, 2 * dim) -> (B, L, dim)."""

    def __init__(self, dim: int, length: int, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps)
        self.proj = PositionMap(length, length)

    def forward(self, x: Tensor) -> Tensor:
        u, v = x.chunk(2, -1)
        return u * self.proj(self.norm(v))


class PositionMap(nn.Linear):
    """A linear map of the positions, (B, L, C) -> (B, L, C), that starts as the constant 1.

    The weight stands on the left, as in the formula: nothing is transposed, and the channels remain neighbours in memory.
    """

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=1e-6)
        nn.init.ones_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], self.weight.expand(x.shape[0], -1, -1), x)
