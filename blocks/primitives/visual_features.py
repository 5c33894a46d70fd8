"""Features of pictures among the tokens of a text: in the place of their embeddings, or added to the stream at later layers.

Paper: arXiv:2406.04334 (DeepStack).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.context import Context
from blocks.registry import block

MASK = "visual_mask"
"""The slot with (B, L) bool: which tokens stand for pieces of a picture."""
FEATURES = "visual"
"""The slots `visual.0`, `visual.1`, …, each (N, C): a row for each such token, row by row of the batch."""


@block(
    "visual_features",
    kind="channel_mixer",
    layout="BLC",
    abilities=("causal", "noncausal", "any_resolution", "1d"),
    paper="arXiv:2406.04334",
    covers=("deepstack",),
)
class VisualFeatures(nn.Module):
    """y = x + f at the tokens that stand for pictures, and x elsewhere; or with `mode` "replace", y = f there.

    (B, L, C) -> (B, L, C). The tokens are those of the slot `visual_mask` of ctx (B, L), f the rows of `visual.LEVEL` (N, C), in the order
    of the tokens: `Context(slots={"visual_mask": {"": mask}, "visual.0": {"": rows}})`. Without either the stream is as it was, as in a
    text. Further crops or layers of a picture, added at several depths, leave the sequence as short as one crop would. Raises ValueError
    for another number of rows than of tokens.
    """

    def __init__(self, dim: int, *, level: Annotated[int, Meta(ge=0)] = 0, mode: Literal["add", "replace"] = "add"):
        super().__init__()
        self.mode, self.key = mode, f"{FEATURES}.{level}"

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        mask, rows = (self._given(ctx, key) for key in (MASK, self.key))
        if mask is None or rows is None:
            return x
        where = mask.bool().to(x.device)
        if where.shape != x.shape[:2] or rows.shape != (int(where.sum()), x.shape[2]):
            raise ValueError(
                f"`{MASK}` {tuple(where.shape)} marks {int(where.sum())} tokens of {tuple(x.shape)}, and `{self.key}` has shape "
                f"{tuple(rows.shape)}; it should be ({int(where.sum())}, {x.shape[2]})"
            )
        spread = where.unsqueeze(-1).expand_as(x)
        if self.mode == "replace":
            return x.masked_scatter(spread, rows.to(x))
        return x + torch.zeros_like(x).masked_scatter(spread, rows.to(x))

    def _given(self, ctx: Context | None, key: str) -> Tensor | None:
        written = list(ctx.read(key).values()) if ctx is not None else []
        return written[-1] if written else None
