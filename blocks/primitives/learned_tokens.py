"""Tokens that are learned and come from nowhere: what a net asks of its input, or writes its answer on. Paper: arXiv:2103.03206 (Perceiver)."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.registry import block


@block(
    "learned_tokens",
    kind="whole",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2103.03206",
    covers=("latents", "queries", "perceiver"),
)
class LearnedTokens(nn.Module):
    """y = tokens, the same learned ones for each sample of x, of which nothing else is read.

    (B, C, H, W) or (B, L, C) -> (B, count, out_dim). They start normal with deviation `std`, without a value out_dim^(-1/2).
    """

    no_decay = ("tokens",)
    from_nothing = True

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        count: Annotated[int, Meta(ge=1, le=1_000_000)] = 16,
        std: Annotated[float, Meta(gt=0)] | None = None,
    ):
        super().__init__()
        self.out_dim = out_dim or dim
        self.std = std or self.out_dim**-0.5
        self.tokens = nn.Parameter(torch.empty(count, self.out_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.tokens, std=self.std)

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens.expand(x.shape[0], -1, -1)
