"""VanillaNet's head: two linear maps that are one after training.

Paper: arXiv:2305.12972 (section 3.1). Upstream: huawei-noah/VanillaNet (MIT). Differs from upstream: what is dropped in training is
dropped before the second map.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import nn

from blocks.heads.conv_head import ConvHead
from blocks.heads.linear_head import LinearHead
from blocks.heads.pool import Pool
from blocks.registry import block
from blocks.registry.slots import Act, Norm, slot


@block(
    "deep_training_head",
    kind="head",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2305.12972",
    covers=("vanillanet",),
)
class DeepTrainingHead(ConvHead):
    """logits = W_2 drop(act(norm(W_1 pool x + b_1))) + b_2, W_1: C -> `hidden_dim`, which is num_classes where nothing is said.

    (B, C, H, W) or (B, L, C) -> (B, num_classes); what W_2 reads with `pre_logits`, or when there are no classes.
    `fuse()` folds a batch norm and, where the activation has vanished, leaves a `linear_head` of W_2 W_1, whose pre_logits are what was
    pooled.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int = 1000,
        pool: Pool = "avg",
        hidden_dim: Annotated[int, Meta(ge=1)] | None = None,
        norm: Norm | None = slot("batch_norm"),
        act: Act | None = slot("vanishing_relu"),
        drop: Annotated[float, Meta(ge=0, lt=1)] = 0.0,
    ):
        super().__init__(
            dim, num_classes=num_classes, pool=pool, hidden_dim=hidden_dim or num_classes or dim, norm=norm, act=act, bias=True,
            drop=drop,
        )  # fmt: skip

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        super().fuse()
        if self.norm is not None or self.act is not None or self.classifier is None:
            return self
        first, second = self.fc, self.classifier
        merged = LinearHead(first.in_features, num_classes=self.num_classes, pool=self.pool, drop=self.drop)
        assert merged.classifier is not None and first.bias is not None
        merged.classifier.weight = nn.Parameter(second.weight @ first.weight, requires_grad=False)
        merged.classifier.bias = nn.Parameter(second.weight @ first.bias + second.bias, requires_grad=False)
        return merged
