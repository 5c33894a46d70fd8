"""A linear map through a narrow middle."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.primitives.linears import EVERYWHERE, Dense
from blocks.registry import block


@block("low_rank", kind="linear", abilities=EVERYWHERE)
class LowRank(nn.Module):
    """y = U (V x) + b with V (rank, in) and U (out, rank): rank * (in + out) weights instead of in * out.

    (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels. Raises ValueError when the rank exceeds
    either width, since the factors would then cost more than they save and reach nothing new.
    """

    def __init__(
        self, dim: int, out_dim: int | None = None, *, rank: Annotated[int, Meta(ge=1)] = 16, bias: bool = True
    ):
        super().__init__()
        self.out_dim = out_dim or dim
        if rank > min(dim, self.out_dim):
            raise ValueError(
                f"rank {rank} exceeds a map from {dim} to {self.out_dim} channels, "
                f"whose rank is at most {min(dim, self.out_dim)}"
            )
        self.down = Dense(dim, rank, bias=False)
        self.up = Dense(rank, self.out_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return self.up.absorb_output(scale, shift)

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return self.down.absorb_input(scale, shift)
