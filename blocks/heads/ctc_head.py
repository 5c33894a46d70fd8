"""The head of speech recognisers: at each step one of the units of a text, or nothing new. Paper: Graves et al., ICML 2006 (CTC)."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.slots import Norm


@block("ctc_head", kind="head", layout="BLC", abilities=("causal", "noncausal", "any_resolution", "1d"))
class CtcHead(nn.Module):
    """logits_t = W norm(x_t) + b over num_classes units, of which number `blank` stands for nothing new.

    (B, L, C) -> (B, L, num_classes); (B, L, C) with `pre_logits`, or without classes. `loss` holds logits against texts, `decode` reads them.
    """

    per_token = True

    def __init__(
        self, dim: int, *, num_classes: int = 128, norm: Norm | None = None, blank: Annotated[int, Meta(ge=0)] = 0
    ):
        super().__init__()
        self.num_features, self.num_classes, self.blank = dim, num_classes, blank
        self.norm = norm(dim) if norm else None
        self.classifier = Dense(dim, num_classes) if num_classes else None

    def forward(self, x: Tensor, ctx: Context | None = None, pre_logits: bool = False) -> Tensor:
        if self.norm is not None:
            x = run(self.norm, x, ctx)
        return x if pre_logits or self.classifier is None else self.classifier(x)

    def loss(self, logits: Tensor, texts: Tensor, steps: Tensor, units: Tensor) -> Tensor:
        """-log p(text), per unit and the mean over samples: logits (B, L, classes), texts (B, N), of which `steps` and `units` (B,) are real.

        p(text) is the sum over all ways to spread a text over the steps, blanks between. A text that does not fit adds nothing.
        """
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        return F.ctc_loss(wide.transpose(0, 1), texts, steps, units, self.blank, zero_infinity=True)

    def decode(self, logits: Tensor, mask: Tensor | None = None) -> list[list[int]]:
        """The text of the likeliest unit at each step, repetitions and then blanks left out; `mask` (B, L) says which steps are real."""
        best = logits.argmax(-1)
        if mask is not None:
            best = best.masked_fill(~mask, self.blank)
        changes = torch.ones_like(best, dtype=torch.bool)
        changes[:, 1:] = best[:, 1:] != best[:, :-1]
        kept = changes & (best != self.blank)
        return [row[keep].tolist() for row, keep in zip(best, kept, strict=True)]
