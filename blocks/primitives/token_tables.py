"""Tables that are added to the embeddings of tokens: one row for each position, one for each segment of a text. Paper: arXiv:1810.04805."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.rotary import positions_after
from blocks.context import Context
from blocks.recurrent import Recurrent, State
from blocks.registry import block
from blocks.registry.errors import SizeError

Count = Annotated[int, Meta(ge=1)]

SEGMENTS = "token_types"
"""The slot with (B, L) integers: the segment of each token."""


@block(
    "learned_positions",
    kind="embed",
    layout="BLC",
    abilities=("causal", "noncausal", "step", "any_resolution", "1d"),
    paper="arXiv:1810.04805",
    covers=("absolute_positions",),
)
class LearnedPositions(Recurrent):
    """y_t = x_t + W[t]: a learned row for each of the first `max_positions` tokens of a sequence, whatever its length.

    (B, L, C) -> (B, L, C). The state is the number of tokens so far (B,); padding has no position. Raises SizeError for longer sequences.
    """

    no_decay = ("weight",)

    def __init__(self, dim: int, *, max_positions: Count = 512):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_positions, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def state_size(self, length: int = 0) -> int:
        return 1

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        most, length = len(self.weight), x.shape[1]
        where, after = positions_after(x, None if state is None else state[0], mask)
        if length > most or (state is not None and not after.is_meta and int(after.max()) > most):
            raise SizeError(f"there are {most} learned positions, and the sequence is longer; state max_positions = N")
        if state is None:
            return x + self.weight[:length], (after,)
        return x + F.embedding(where.clamp_max(most - 1), self.weight), (
            after,
        )  # behind the tokens only padding is clamped


@block(
    "segment_embedding",
    kind="embed",
    layout="BLC",
    abilities=("causal", "noncausal", "any_resolution", "1d"),
    paper="arXiv:1810.04805",
    covers=("token_type_embedding",),
)
class SegmentEmbedding(nn.Module):
    """y = x + W[s], s the segment that each token belongs to: the first text of a pair, or the second.

    (B, L, C) -> (B, L, C). Segments (B, L) are the slot `token_types` of ctx, `Context(slots={"token_types": {"": types}})`; without it all
    tokens are of segment 0. Raises ValueError for segments of another shape.
    """

    def __init__(self, dim: int, *, segments: Count = 2):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(segments, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        given = list(ctx.read(SEGMENTS).values()) if ctx is not None else []
        if not given:
            return x + self.weight[0]
        if given[-1].shape != x.shape[:2]:
            found = tuple(given[-1].shape)
            raise ValueError(f"`{SEGMENTS}` has shape {found}; the tokens here are (B, L) = {tuple(x.shape[:2])}")
        return x + F.embedding(given[-1], self.weight)
