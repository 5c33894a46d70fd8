"""A linear map that is run at several places, with a low-rank update for each of them. Paper: arXiv:2411.15242 (Zamba2)."""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.context import Context
from blocks.primitives.linears import EVERYWHERE
from blocks.registry import block
from blocks.structured.adapters import Adapted
from blocks.structured.low_rank import LowRank

Turn = Annotated[int, Meta(ge=0)]


@block("turn_lora", kind="linear", abilities=EVERYWHERE, paper="arXiv:2411.15242", covers=("shared_attention_adapter",))
class TurnLora(Adapted):
    """y = W x + b + U_t V_t x at turn t, V_t (rank, in) and U_t (out, rank): what parts of a `tied` have of their own at each place.

    (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels. `turns` are those that have an update; at others, and at
    turn 0 where nothing is tied, y is what stands there. As a part of its own it has no bias.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        rank: Annotated[int, Meta(ge=1)] = 16,
        turns: Annotated[list[Turn], Meta(min_length=1, max_length=4096)] = [0],  # noqa: B006
        bias: bool = False,
    ):
        super().__init__(dim, out_dim, bias)
        self.turns = nn.ModuleDict({str(turn): LowRank(dim, self.out_dim, rank=rank, bias=False) for turn in turns})
        self.reset_parameters()

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The map; an update says so itself."""
        return {"matmul": math.prod(shape) // self.dim * self.weight.numel()}

    def update(self, rows: Tensor, ctx: Context | None) -> Tensor:
        turn = str(0 if ctx is None else ctx.turn)
        if turn not in self.turns:
            return rows.new_zeros(())
        y: Tensor = self.turns[turn](rows)
        return y
