"""The head of language models: norm, and a score for every token of the vocabulary at every position."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.primitives.linears import Dense
from blocks.primitives.token_embedding import TokenEmbedding
from blocks.registry import block
from blocks.registry.slots import Linear, Norm


@block("lm_head", kind="head", layout="BLC", abilities=("causal", "noncausal", "any_resolution", "1d"))
class LmHead(nn.Module):
    """logits = scale * W norm(x), at every position; with `tie = "stem"` W is the table of the model's token embedding.

    With a `softcap` logits become softcap tanh(logits / softcap) (Gemma 2, arXiv:2408.00118).
    (B, L, C) -> (B, L, num_classes), num_classes being the vocabulary; (B, L, C) with `pre_logits`, or without classes.
    A tied head owns no W: it looks at the table, wherever that is moved or loaded. Raises ValueError for a stem without
    a table of its shape.
    """

    per_token = True

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int = 256,
        norm: Norm | None = None,
        tie: Literal["stem"] | None = None,
        scale: Annotated[float, Meta(gt=0)] = 1.0,
        bias: bool = False,
        softcap: Annotated[Annotated[float, Meta(gt=0)] | None, Meta(extra_json_schema={"added": "0.1"})] = None,
        linear: Annotated[Linear | None, Meta(extra_json_schema={"added": "0.1"})] = None,
    ):
        super().__init__()
        self.num_features, self.num_classes, self.scale, self.softcap = dim, num_classes, scale, softcap
        self.tie = tie if num_classes else None
        if self.tie and bias:
            raise ValueError(
                "a head that shares the table of the stem has no bias of its own; leave out one of the two"
            )
        self.norm = norm(dim) if norm else None
        self.classifier = (linear or Dense)(dim, num_classes, bias=bias) if num_classes and not tie else None
        self.table: tuple[TokenEmbedding, ...] = ()  # in a tuple: no module of this one, its parameters stay the stem's

    def tie_to(self, stem: nn.Module | None) -> None:
        """Takes the table of the token embedding that `stem` is or holds."""
        tables = [part for part in stem.modules() if isinstance(part, TokenEmbedding)] if stem is not None else []
        if not tables:
            raise ValueError('tie = "stem" needs a token_embedding in the stem, and there is none')
        if tables[0].weight.shape != (self.num_classes, self.num_features):
            rows, width = tables[0].weight.shape
            raise ValueError(
                f"the table of the stem holds {rows} rows of {width} channels, and a head that shares it needs "
                f'{self.num_classes} of {self.num_features}; write tie = "none"'
            )
        self.table = (tables[0],)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """A row of scores for each position, where the table is not a layer of this head."""
        B, L, C = shape
        return {"matmul": B * L * C * self.num_classes} if self.tie else {}

    def forward(self, x: Tensor, ctx: Context | None = None, pre_logits: bool = False) -> Tensor:
        if self.norm is not None:
            x = run(self.norm, x, ctx)
        if pre_logits or not self.num_classes:
            return x
        logits = self.classifier(x) if self.classifier is not None else self._shared().scores(x)
        logits = logits if self.scale == 1 else logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def _shared(self) -> TokenEmbedding:
        if not self.table:
            raise ValueError('a head with tie = "stem" works in a model, which gives it the table of its stem')
        return self.table[0]
