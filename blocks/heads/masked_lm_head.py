"""The head of models that fill gaps of a text. Paper: arXiv:1810.04805. Names of its parts are those of transformers' BERT."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.heads.lm_head import LmHead
from blocks.places import without_places
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.slots import Act, Norm, slot

POOLED = "pooled"
"""The slot with (B, C): one vector for each text."""


@block(
    "masked_lm_head",
    kind="head",
    layout="BLC",
    abilities=("noncausal", "any_resolution", "1d"),
    paper="arXiv:1810.04805",
)
class MaskedLmHead(LmHead):
    """logits = W norm(act(W_t x + b_t)) + b at every position; with `tie = "stem"` W is the table of the model's token embedding.

    (B, L, C) -> (B, L, num_classes), num_classes being the vocabulary; (B, L, C) with `pre_logits`, or without classes. With `pooler`
    tanh(W_p x_0) of the first token, (B, C), is left in the slot `pooled` of ctx; that map belongs to checkpoints, and nothing trains it here.
    Raises ValueError as `lm_head` does.
    """

    path = ""

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int = 256,
        act: Act = slot("gelu"),
        norm: Norm = slot("layer_norm"),
        tie: Literal["stem"] | None = None,
        pooler: bool = False,
    ):
        super().__init__(dim, num_classes=num_classes, norm=norm, tie=tie)
        self.dense, self.act = Dense(dim, dim), act(dim)
        self.register_parameter("bias", nn.Parameter(torch.empty(num_classes)) if num_classes else None)
        self.bias: nn.Parameter | None
        self.pooler = Dense(dim, dim).requires_grad_(False) if pooler else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, ctx: Context | None = None, pre_logits: bool = False) -> Tensor:
        if self.pooler is not None and ctx is not None:
            ctx.write(POOLED, self.path, self.pooler(x[:, 0]).tanh())
        x = run(self.act, self.dense(x))
        if self.norm is not None:
            x = run(self.norm, x, without_places(ctx))
        if pre_logits or self.bias is None:
            return x
        logits: Tensor = self._shared().scores(x) if self.classifier is None else self.classifier(x)
        return logits + self.bias
