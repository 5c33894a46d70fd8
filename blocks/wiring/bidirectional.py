"""Both directions of a sequence: what sees only the past, once forwards and once backwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import Chain, run
from blocks.construct import build_chain
from blocks.context import Context
from blocks.ops.masks import refuse_state
from blocks.ops.sequences import checked_borders
from blocks.registry import block
from blocks.registry.slots import NONE
from blocks.wiring.parts import Parts, place_of

BACKWARDS = ", backwards"
"""Marks the slots of ctx that belong to the way back, whose tokens stand in another order."""


@block("bidirectional", kind="wiring", abilities=("noncausal", "any_resolution"))
class Bidirectional(nn.Module):
    """y = (f(x) + flip g(flip x)) / 2, where f runs the parts one after the other and g does too, with weights of its own or f's.

    (B, L, C) or (B, C, H, W), which is read row by row, -> the same shape with the width of the last part. Padding and the
    borders of packed sequences are turned with the tokens. Raises ValueError for a state to continue.
    """

    back: Chain | None

    def __init__(self, dim: int, *, parts: Annotated[Parts, Meta(min_length=1)], shared: bool = False):
        super().__init__()
        calls, place = [NONE if part is None else part.call for part in parts], place_of(parts)
        self.there = build_chain(calls, place.at("there"), dim, dim)
        self.back = None if shared else build_chain(calls, place.at("back"), dim, dim)
        self.out_dim = self.there.out_dim

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "it sees the future, whose state nobody knows")
        ahead, turned_ctx = run(self.there, x, ctx), _turned_context(x, ctx)
        back = run(self.there if self.back is None else self.back, turned(x), turned_ctx)
        if ctx is not None and turned_ctx is not None:
            ctx.slots.update((name + BACKWARDS, values) for name, values in turned_ctx.slots.items())
        return (ahead + turned(back)) / 2


def turned(x: Tensor) -> Tensor:
    """The tokens from last to first; of an image, the last row first and in each row the last column."""
    return x.flip((2, 3) if x.ndim == 4 else 1)


def _turned_context(x: Tensor, ctx: Context | None) -> Context | None:
    """What the way back sees of ctx: mask and borders turned, and in the slots only what earlier ways back have written."""
    if ctx is None:
        return None
    mask = None if ctx.mask is None else ctx.mask.flip(1)
    length = x.shape[2] * x.shape[3] if x.ndim == 4 else x.shape[1]
    borders = checked_borders(ctx.cu_seqlens, x, x.shape[0], length, "x")
    borders = None if borders is None else length - borders.flip(0)
    slots = {name.removesuffix(BACKWARDS): slot for name, slot in ctx.slots.items() if name.endswith(BACKWARDS)}
    return replace(ctx, mask=mask, cu_seqlens=borders, slots=slots)
