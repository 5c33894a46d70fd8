"""The head of MobileNets since the third: a wide layer behind the pooling, where it costs one position."""

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
from blocks.registry.slots import Act, Norm, Slot, slot


@block("conv_head", kind="head", abilities=("noncausal", "any_resolution"), paper="arXiv:1905.02244")
class ConvHead(nn.Module):
    """logits = W_2 drop(act(norm(W_1 pool pre(x)))) + b, W_1 to `hidden_dim` channels; `pre`, if there is one, sees the map.

    (B, C, H, W) or (B, L, C) -> (B, num_classes); (B, hidden_dim) with `pre_logits`, or when there are no classes.
    `fuse()` folds a batch norm into W_1.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int = 1000,
        pool: Pool = "avg",
        hidden_dim: Annotated[int, Meta(ge=1)] = 1280,
        norm: Norm | None = slot("batch_norm"),
        act: Act | None = slot("relu"),
        bias: bool = False,
        drop: Annotated[float, Meta(ge=0, lt=1)] = 0.0,
        pre: Annotated[Slot | None, Meta(extra_json_schema={"added": "0.1"})] = None,
    ):
        super().__init__()
        self.num_features, self.num_classes = hidden_dim, num_classes
        self.pool: Pool = pool
        self.drop = drop
        self.pre = pre(dim) if pre else None
        self.fc = Dense(getattr(self.pre, "out_dim", dim), hidden_dim, bias=bias)
        self.norm = norm(hidden_dim) if norm else None
        self.act = act(hidden_dim) if act else None
        self.classifier = Dense(hidden_dim, num_classes) if num_classes else None

    def forward(self, x: Tensor, ctx: Context | None = None, pre_logits: bool = False) -> Tensor:
        if self.pre is not None:
            x = run(self.pre, x, ctx)
        x = self.fc(pooled(x, self.pool, ctx))
        for part in (self.norm, self.act):
            if part is not None:
                x = run(part, x, without_places(ctx))
        if pre_logits or self.classifier is None:
            return x
        return self.classifier(F.dropout(x, self.drop, self.training))

    def fuse(self) -> nn.Module:
        affine = self.norm.as_affine() if hasattr(self.norm, "as_affine") else None  # type: ignore[union-attr, operator]
        if affine is not None:
            self.fc.absorb_output(*affine)
            self.norm = None
        return self
