"""RaftMLP's token mixing: a perceptron along rows or columns, which sees several channels of a position at once.

Paper: arXiv:2108.04384. Upstream: okojoalg/raft-mlp (Apache-2.0).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import check_divides
from blocks.chain import run
from blocks.context import Context
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.errors import SizeError
from blocks.registry.slots import Act, slot

# from (B, raft, C / raft, H, W) to channels, the other axis, then what is mixed: raft and the axis; and back
ORDER = {"vertical": (0, 2, 4, 1, 3), "horizontal": (0, 2, 3, 1, 4)}
BACK = {"vertical": (0, 3, 1, 4, 2), "horizontal": (0, 3, 1, 2, 4)}


@block(
    "raster_mixing",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "2d"),
    paper="arXiv:2108.04384",
    covers=("raftmlp", "raft_token_mixing"),
)
class RasterMixing(nn.Module):
    """y = W_2 act(W_1 z), z the `raft` * H numbers of a column: of `raft` channels that stand C / raft apart, all rows.

    (B, C, H, W) -> (B, C, H, W) for the one size it was built for; `axis` horizontal mixes rows instead. W_1 widens by `ratio`. Within
    the view `resized` it takes any size. Raises ValueError when `raft` does not divide C, and SizeError for another size.
    """

    def __init__(
        self,
        dim: int,
        *,
        axis: Literal["vertical", "horizontal"] = "vertical",
        raft: Annotated[int, Meta(ge=1)] = 2,
        ratio: Annotated[float, Meta(gt=0)] = 2.0,
        act: Act | None = slot("gelu"),
        input_size: tuple[int, ...] = (14, 14),
    ):
        super().__init__()
        check_divides("raft", raft, "dim", dim)
        self.axis, self.raft, self.input_size = axis, raft, tuple(input_size)
        mixed = raft * self.input_size[0 if axis == "vertical" else 1]
        self.fc1 = Dense(mixed, int(mixed * ratio))
        self.act = act(int(mixed * ratio)) if act else None
        self.fc2 = Dense(int(mixed * ratio), mixed)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Nothing beside the two maps, which see (B, C / raft, the other axis, raft * the axis)."""
        return {}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if tuple(x.shape[2:]) != self.input_size:
            raise SizeError(
                f"this raster_mixing was built for maps of size {self.input_size} and meets {tuple(x.shape[2:])}; "
                "build the model with that input size, or put it within the view `resized`"
            )
        y = x.unflatten(1, (self.raft, -1)).permute(ORDER[self.axis])
        size = y.shape[3:]
        y = y.flatten(1, 2).flatten(2)  # (B, channels and the other axis, raft and the axis): tokens to the maps
        y = self.fc1(y)
        if self.act is not None:
            y = run(self.act, y, ctx)
        y = self.fc2(y).unflatten(2, size).unflatten(1, (x.shape[1] // self.raft, -1))
        return y.permute(BACK[self.axis]).flatten(1, 2).contiguous(memory_format=torch.channels_last)
