"""Two classifiers of one vector: what a teacher says has its own, and both are asked.

Papers: arXiv:2012.12877 (DeiT), arXiv:2104.01136 (LeViT). Upstream: suous/RecNeXt (Apache-2.0).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.heads.linear_head import LinearHead
from blocks.heads.pool import Pool, pooled
from blocks.places import without_places
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.slots import Norm, Slot, slot


@block(
    "distilled_head",
    kind="head",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2104.01136",
    covers=("levit", "recnext"),
)
class DistilledHead(nn.Module):
    """logits = (W norm(f) + b + W_d norm_d(f) + b_d) / 2, f = drop(neck(pool x)).

    (B, C, H, W) or (B, L, C) -> (B, num_classes); (B, C), the pooled map behind the `neck`, if there is one, with `pre_logits`, or when
    there are no classes.
    `fuse()` leaves a `linear_head`, with batch norms folded and the mean of both maps.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int = 1000,
        pool: Pool = "avg",
        norm: Norm | None = slot("batch_norm"),
        drop: Annotated[float, Meta(ge=0, lt=1)] = 0.0,
        neck: Annotated[Slot | None, Meta(extra_json_schema={"added": "0.1"})] = None,
    ):
        super().__init__()
        self.neck = neck(dim) if neck else None
        dim = getattr(self.neck, "out_dim", dim)
        self.num_features, self.num_classes = dim, num_classes
        self.pool: Pool = pool
        self.drop = drop
        has_maps = num_classes > 0
        self.norm = norm(dim) if norm and has_maps else None
        self.classifier = Dense(dim, num_classes) if has_maps else None
        self.norm_dist = norm(dim) if norm and has_maps else None
        self.classifier_dist = Dense(dim, num_classes) if has_maps else None

    def forward(self, x: Tensor, ctx: Context | None = None, pre_logits: bool = False) -> Tensor:
        x = pooled(x, self.pool, ctx)
        if self.neck is not None:
            x = run(self.neck, x, without_places(ctx))
        if pre_logits or self.classifier is None or self.classifier_dist is None:
            return x
        x = F.dropout(x, self.drop, self.training)
        ctx = without_places(ctx)
        normed, normed_dist = (x if norm is None else run(norm, x, ctx) for norm in (self.norm, self.norm_dist))
        return (self.classifier(normed) + self.classifier_dist(normed_dist)) / 2

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        pairs = (self.norm, self.classifier), (self.norm_dist, self.classifier_dist)
        if (
            self.classifier is None
            or self.neck is not None
            or not all(norm is None or hasattr(norm, "as_affine") for norm, _ in pairs)
        ):
            return self
        for norm, classifier in pairs:
            if norm is not None:
                classifier.absorb_input(*norm.as_affine())  # type: ignore[union-attr, operator]
        merged = LinearHead(self.num_features, num_classes=self.num_classes, pool=self.pool, drop=self.drop)
        layers = [classifier for _, classifier in pairs]
        for name in ("weight", "bias"):
            mean = sum(getattr(layer, name) for layer in layers) / 2
            setattr(merged.classifier, name, nn.Parameter(mean, requires_grad=False))  # type: ignore[arg-type]
        return merged
