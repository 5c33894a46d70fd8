"""The stem of models that read tokens: a learned vector for each."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.registry import block


@block("token_embedding", kind="stem", layout="BLC", abilities=("causal", "noncausal", "any_resolution", "1d"))
class TokenEmbedding(nn.Module):
    """y = scale * W[ids]: row i of the table W for token number i.

    (B, L) integers in [0, dim) -> (B, L, out_dim); `dim` is the number of different tokens. W starts normal with
    deviation `std`. Raises IndexError for other ids, where the device finds them.
    """

    takes_ids = True

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        scale: Annotated[float, Meta(gt=0)] = 1.0,
        std: Annotated[float, Meta(gt=0)] = 0.02,
    ):
        super().__init__()
        self.out_dim, self.scale, self.std = out_dim or dim, scale, std
        self.weight = nn.Parameter(torch.empty(dim, self.out_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)

    def forward(self, ids: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            x = F.embedding(ids, self.weight)
        else:
            x = self._looked_up(ids)
        return x if self.scale == 1 else x * self.scale

    def scores(self, x: Tensor) -> Tensor:
        """x (B, L, out_dim) -> x W^T (B, L, dim): how much each token's row is like x, for a head that shares the table."""
        return F.linear(x, self.weight)

    def _looked_up(self, ids: Tensor) -> Tensor:
        try:
            return F.embedding(ids, self.weight)
        except IndexError:  # of torch, which names neither the id nor the range; to look before would cost each step
            raise foreign_ids(ids, len(self.weight)) from None


def foreign_ids(ids: Tensor, vocabulary: int) -> IndexError:
    """What is raised for ids of no token."""
    found = f"{int(ids.min())} to {int(ids.max())}" if ids.numel() else "none"
    return IndexError(f"token ids should be in [0, {vocabulary}), the vocabulary; found {found}")
