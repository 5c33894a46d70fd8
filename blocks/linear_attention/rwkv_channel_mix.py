"""RWKV's channel mixer: a squared ReLU between two maps, with a look at the token before. Paper: arXiv:2503.14456.

Names of the state are those of fla-org/flash-linear-attention (MIT).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.recurrent import Recurrent, State, shifted
from blocks.registry import block
from blocks.registry.slots import Linear, slot


@block(
    "rwkv_channel_mix",
    kind="channel_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2503.14456",
    covers=("rwkv7_channel_mix",),
)
class RwkvChannelMix(Recurrent):
    """y = W_v relu(W_k (x + (x' - x) x_k))^2, x' the token before.

    (B, L, C) -> (B, L, C). The hidden width is `hidden_dim`, or int(ratio * C) without one. The state is the last token (B, C).
    """

    no_decay = ("x_k",)

    def __init__(
        self,
        dim: int,
        *,
        ratio: Annotated[float, Meta(gt=0)] = 4.0,
        hidden_dim: Annotated[int, Meta(ge=1)] | None = None,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        hidden_dim = hidden_dim or int(dim * ratio)
        self.x_k = nn.Parameter(torch.empty(dim))
        self.key = linear(dim, hidden_dim, bias=False)
        self.value = linear(hidden_dim, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.x_k)

    def state_size(self, length: int = 0) -> int:
        return self.x_k.numel()

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        before, last = shifted(x, None if state is None else state[0], mask)
        k = run(self.key, torch.addcmul(x, before - x, self.x_k), ctx)
        return run(self.value, F.relu(k).square(), ctx), (last,)
