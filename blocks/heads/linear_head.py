"""The plain classification head: pool, norm, linear."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.heads.pool import Pool, pooled
from blocks.places import without_places
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.slots import Norm, Slot


@block("linear_head", kind="head", abilities=("noncausal", "any_resolution"))
class LinearHead(nn.Module):
    """logits = W drop(norm(pool x)) + b, or with pool(norm(x)) where `norm_first`; `pre`, where given, sees the map before.

    (B, C, H, W) or (B, L, C) -> (B, num_classes); (B, C) with `pre_logits`, or when there are no classes.
    `fuse()` folds a batch norm into W, after which pre_logits are those before the norm. `spare` keeps a second classifier in the state
    that nothing reads and nothing trains here: upstream's for training with mixed patches.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int = 1000,
        pool: Pool = "avg",
        norm: Norm | None = None,
        norm_first: bool = False,
        drop: Annotated[float, Meta(ge=0, lt=1)] = 0.0,
        spare: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = False,
        pre: Annotated[Slot | None, Meta(extra_json_schema={"added": "0.1"})] = None,
    ):
        super().__init__()
        self.pre = pre(dim) if pre else None
        dim = getattr(self.pre, "out_dim", dim)
        self.num_features, self.num_classes = dim, num_classes
        self.pool: Pool = pool
        self.norm_first, self.drop = norm_first, drop
        self.norm = norm(dim) if norm else None
        self.classifier = Dense(dim, num_classes) if num_classes else None
        self.spare = Dense(dim, num_classes).requires_grad_(False) if num_classes and spare else None

    def forward(self, x: Tensor, ctx: Context | None = None, pre_logits: bool = False) -> Tensor:
        if self.pre is not None:
            x = run(self.pre, x, ctx)
        if self.norm is not None and self.norm_first:
            x = run(self.norm, x, ctx)
        x = pooled(x, self.pool, ctx)
        if self.norm is not None and not self.norm_first:
            x = run(self.norm, x, without_places(ctx))
        if pre_logits or self.classifier is None:
            return x
        return self.classifier(F.dropout(x, self.drop, self.training))

    def fuse(self) -> nn.Module:
        affine = self.norm.as_affine() if hasattr(self.norm, "as_affine") else None  # type: ignore[union-attr, operator]
        if affine is None or self.classifier is None or (self.norm_first and self.pool != "avg"):
            return self  # a maximum does not commute with a negative scale
        self.classifier.absorb_input(*affine)
        self.norm = None
        return self
