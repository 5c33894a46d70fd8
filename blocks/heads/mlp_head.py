"""The classification head with a hidden layer, of InceptionNeXt and of MetaFormer's ConvFormer and CAFormer.

Papers: arXiv:2303.16900, arXiv:2210.13452. Upstream: sail-sg/inceptionnext, sail-sg/metaformer (Apache-2.0).
"""

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
from blocks.registry.slots import Act, Norm, slot


@block("mlp_head", kind="head", abilities=("noncausal", "any_resolution"), paper="arXiv:2210.13452")
class MlpHead(nn.Module):
    """logits = W_2 drop(norm(act(W_1 pre_norm(pool x)))) + b, W_1: C -> `hidden_dim`, or int(ratio * C) without one.

    (B, C, H, W) or (B, L, C) -> (B, num_classes); (B, hidden) with `pre_logits`, or when there are no classes.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int = 1000,
        pool: Pool = "avg",
        ratio: Annotated[float, Meta(gt=0)] = 4.0,
        hidden_dim: Annotated[int, Meta(ge=1)] | None = None,
        pre_norm: Norm | None = None,
        act: Act | None = slot("gelu"),
        norm: Norm | None = slot("layer_norm"),
        drop: Annotated[float, Meta(ge=0, lt=1)] = 0.0,
    ):
        super().__init__()
        hidden_dim = hidden_dim or int(dim * ratio)
        self.num_features, self.num_classes = hidden_dim, num_classes
        self.pool: Pool = pool
        self.drop = drop
        self.pre_norm = pre_norm(dim) if pre_norm else None
        self.fc = Dense(dim, hidden_dim)
        self.act = act(hidden_dim) if act else None
        self.norm = norm(hidden_dim) if norm else None
        self.classifier = Dense(hidden_dim, num_classes) if num_classes else None

    def forward(self, x: Tensor, ctx: Context | None = None, pre_logits: bool = False) -> Tensor:
        x = pooled(x, self.pool, ctx)
        for part in (self.pre_norm, self.fc, self.act, self.norm):
            if part is not None:
                x = run(part, x, without_places(ctx))
        if pre_logits or self.classifier is None:
            return x
        return self.classifier(F.dropout(x, self.drop, self.training))

    def fuse(self) -> nn.Module:
        for name, linear in (("pre_norm", self.fc), ("norm", self.classifier)):
            norm = getattr(self, name)
            affine = norm.as_affine() if hasattr(norm, "as_affine") else None
            if affine is not None and linear is not None:
                linear.absorb_input(*affine)
                setattr(self, name, None)
        return self
