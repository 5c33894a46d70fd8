"""MambaMixer's channel mixer: a sequence mixer that goes along the channels, with the tokens for its features.

Paper: arXiv:2403.19888, first version. No official code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.ops.masks import refuse_state, token_mask
from blocks.recurrent import zero_padding
from blocks.registry import block
from blocks.registry.errors import SizeError
from blocks.registry.slots import Mixer, slot


@block(
    "selective_channel_mixer",
    kind="channel_mixer",
    layout="BLC",
    abilities=("noncausal",),
    paper="arXiv:2403.19888",
)
class SelectiveChannelMixer(nn.Module):
    """y = f(x^T)^T, with f a `mixer` of C steps of width L: which channels to heed depends on what they hold.

    (B, L, C) -> (B, L, C) for the one L it was built for. `ctx.mask` sets padding to 0, which to f is a feature that is
    not there. Raises ValueError for another length, and for a state to continue.
    """

    one_grid = True

    def __init__(
        self,
        *,
        mixer: Mixer = slot("bidirectional_mamba", expand=1.0),
        input_size: tuple[int, ...] = (14, 14),
    ):
        super().__init__()
        self.input_size, self.length = tuple(input_size), math.prod(input_size)
        self.mixer = mixer(self.length)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "it sees all tokens; `mlp` does not")
        if x.shape[1] != self.length:
            raise SizeError(
                f"this selective_channel_mixer was built for {self.length} positions and meets {x.shape[1]}; "
                "build the model with that input size"
            )
        y = run(self.mixer, zero_padding(x, token_mask(x, ctx)).transpose(1, 2))
        return y.transpose(1, 2).clone(
            memory_format=torch.contiguous_format
        )  # or the next block would copy it, to see channels
