"""The head of an ensemble whose members share one net: each reads channels of its own. Paper: arXiv:2210.09184 (Packed-Ensembles).

Upstream: ENSTA-U2IS-AI/torch-uncertainty (Apache-2.0). M is here the number of members.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import check_divides
from blocks.context import Context
from blocks.heads.pool import Pool, pooled
from blocks.registry import block


@block(
    "packed_head",
    kind="head",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2210.09184",
    covers=("packed_ensembles", "packed_linear"),
)
class PackedHead(nn.Module):
    """logits_m = W_m f_m + b_m, f_m the m-th of M = `members` equal parts of the channels of drop(pool x).

    (B, C, H, W) or (B, L, C) -> (B, num_classes), log of the mean of all members' softmax. With `merge` "each" every member answers for
    itself, (M * B, num_classes), all images of the first member first: that is what such a net is trained on, each image with its label
    M times. (B, C), the pooled map, with `pre_logits`, or when there are no classes. Raises ValueError when the members do not divide C.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int = 1000,
        members: Annotated[int, Meta(ge=1)] = 4,
        merge: Literal["mean", "each"] = "mean",
        pool: Pool = "avg",
        drop: Annotated[float, Meta(ge=0, lt=1)] = 0.0,
    ):
        super().__init__()
        check_divides("members", members, "dim", dim)
        self.num_features, self.num_classes = dim, num_classes
        self.merge, self.drop = merge, drop
        self.rows_per_input = members if merge == "each" else 1
        self.pool: Pool = pool
        self.classifier = PackedLinear(dim, num_classes, members) if num_classes else None

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """num_classes * C: each channel is read by one member."""
        return {"matmul": shape[0] * self.num_classes * self.num_features}

    def forward(self, x: Tensor, ctx: Context | None = None, pre_logits: bool = False) -> Tensor:
        x = pooled(x, self.pool, ctx)
        if pre_logits or self.classifier is None:
            return x
        logits = self.classifier(F.dropout(x, self.drop, self.training))
        if self.merge == "each":
            return logits.flatten(0, 1)
        return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


class PackedLinear(nn.Module):
    """y_m = W_m x_m + b_m, x_m the m-th part of the channels: (B, C) -> (M, B, classes)."""

    def __init__(self, dim: int, num_classes: int, members: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, num_classes, dim // members))
        self.bias = nn.Parameter(torch.empty(members, num_classes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = self.weight.shape[-1] ** -0.5
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unflatten(1, (len(self.weight), -1)).transpose(0, 1)
        return torch.baddbmm(self.bias.unsqueeze(1), parts, self.weight.transpose(1, 2))
