"""Modality-keyed experts (MoMa): text goes to the experts of text, pictures to those of pictures. Paper: arXiv:2407.21770."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from blocks.context import Context
from blocks.moe.keys import given_key
from blocks.moe.routing import Routing
from blocks.moe.scoring import Count, LinearRouter, Weight, share
from blocks.registry import block
from blocks.tables import Table


@block(
    "modality_router",
    kind="router",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2407.21770",
    covers=("moma",),
)
class ModalityRouter(LinearRouter):
    """s = softmax(W x) over the experts of the token's modality; weights = the k largest, divided by their sum where `renormalise`.

    (B, C, H, W) or (B, L, C) -> Routing (T, k). `sizes` says how many experts each modality has; they stand one after
    the other. The modality of each token, (B, L) or (B,) numbers from 0 on, is given in ctx under the slot `key`:
    `Context(slots={"modality": {"": ids}})`; without it all tokens are of modality 0. Losses and report as in
    `topk_router`. Differs from the paper, whose experts choose their tokens: here tokens choose, so that it is causal.
    """

    def __init__(
        self,
        dim: int,
        *,
        sizes: Annotated[list[Count], Meta(min_length=1)],
        k: Count = 1,
        key: str = "modality",
        renormalise: bool = False,
        balance_weight: Weight = 0.01,
        z_weight: Weight = 0.001,
    ):
        if k > min(sizes):
            raise ValueError(
                f"k = {k} experts cannot be chosen where a modality has {min(sizes)}; the nearest that can is {min(sizes)}"
            )
        super().__init__(dim, sum(sizes), k, balance_weight, z_weight)
        self.sizes, self.key, self.renormalise = list(sizes), key, renormalise
        self.owners = Table(owners, tuple(sizes))

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        logits = self.logits(x)
        modality = given_key(ctx, self.key, x, len(self.sizes))
        foreign = modality.unsqueeze(-1) != self.owners.like(logits)
        scores = logits.masked_fill(foreign, -torch.inf).softmax(-1)
        weights, indices = scores.topk(int(self.k), -1)
        self.tell(ctx, logits, scores, indices)
        return Routing((share(weights) if self.renormalise else weights).to(x.dtype), indices)


def owners(*sizes: int) -> Tensor:
    """(E,): the modality of each expert, `sizes` of them having one after the other."""
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
