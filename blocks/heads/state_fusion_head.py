"""EfficientViM's head: the hidden states of every stage and the last map each give logits, which learned weights fuse.

Paper: arXiv:2411.15241. Upstream: mlvlab/EfficientViM (MIT).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.heads.pool import Pool, pooled
from blocks.places import without_places
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.slots import Norm, Slot, slot


@block("state_fusion_head", kind="head", abilities=("noncausal", "any_resolution"), paper="arXiv:2411.15241")
class StateFusionHead(nn.Module):
    """logits = sum_i softmax(weights)_i (W_i drop(f_i) + b_i), f_i = pool(norm_i(h_i)).

    (B, C, H, W) or (B, L, C) -> (B, num_classes). The h_i are what the last writer of each stage left in the slot `reads`
    of ctx, tokens (B, N_i, stage_dims[i]), and behind them the input; without `reads` the input alone. (B, sum of the
    widths) with `pre_logits`, or when there are no classes. `distilled` adds a second set of weights and maps, and gives
    the mean of both. `eps`, where given, is that of the norms. `fuse()` makes one linear map of all.
    Raises ValueError when the slot does not hold one value per stage.
    """

    norms: nn.ModuleList | None
    classifier: nn.Module | None
    classifier_dist: nn.Module | None
    weights: nn.Parameter | None
    weights_dist: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int = 1000,
        stage_dims: tuple[int, ...] = (),
        reads: Annotated[str, Meta(min_length=1)] | None = None,
        pool: Pool = "avg",
        norm: Norm | None = slot("layer_norm"),
        eps: Annotated[float, Meta(gt=0)] | None = None,
        distilled: bool = False,
        drop: Annotated[float, Meta(ge=0, lt=1)] = 0.0,
    ):
        super().__init__()
        widths = (*stage_dims, dim) if reads else (dim,)
        self.reads, self.num_states = reads, len(widths) - 1
        self.num_features, self.num_classes = sum(widths), num_classes
        self.pool: Pool = pool
        self.drop = drop
        norm = norm if norm is None or eps is None else _with_eps(norm, eps)
        self.norms = nn.ModuleList(norm(width) for width in widths) if norm else None
        for suffix, has_maps in (("", num_classes > 0), ("_dist", num_classes > 0 and distilled)):
            maps = nn.ModuleList(Dense(width, num_classes) for width in widths) if has_maps else None
            weights = nn.Parameter(torch.empty(len(widths))) if has_maps and self.num_states else None
            self.register_module(f"classifier{suffix}", maps)
            self.register_parameter(f"weights{suffix}", weights)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weights in (self.weights, self.weights_dist):
            if weights is not None:
                nn.init.ones_(weights)

    def forward(self, x: Tensor, ctx: Context | None = None, pre_logits: bool = False) -> Tensor:
        states = [(h, without_places(ctx)) for h in self._states(ctx)]  # which are no tokens
        features = [
            pooled(self._normed(i, h, context), self.pool, context)
            for i, (h, context) in enumerate([*states, (x, ctx)])
        ]
        if pre_logits or self.classifier is None:
            return torch.cat(features, 1)
        features = [F.dropout(feature, self.drop, self.training) for feature in features]
        if isinstance(self.classifier, Dense):
            return self.classifier(torch.cat(features, 1))
        logits = _fused(self.classifier, self.weights, features)
        if self.classifier_dist is None:
            return logits
        return (logits + _fused(self.classifier_dist, self.weights_dist, features)) / 2

    def _normed(self, i: int, h: Tensor, ctx: Context | None) -> Tensor:
        return h if self.norms is None else run(self.norms[i], h, ctx)

    def _states(self, ctx: Context | None) -> list[Tensor]:
        """What the last writer of each stage left; a writer's path begins with `stages.i`."""
        if self.reads is None:
            return []
        written = ctx.read(self.reads) if ctx is not None else {}
        states = {path.split(".")[1]: value for path, value in written.items()}
        if len(states) != self.num_states:
            raise ValueError(
                f"this head reads `{self.reads}` of {self.num_states} stages and finds it of {len(states)}; every stage "
                "needs a writer, and forward_features and forward_head, called one by one, the same ctx"
            )
        return list(states.values())

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        if self.classifier is None or self.weights is None:
            return self
        both = (self.classifier, self.weights), (self.classifier_dist, self.weights_dist)
        sets = [(maps, weights.softmax(0)) for maps, weights in both if maps is not None and weights is not None]
        parts = [
            (share / len(sets), layer)
            for maps, shares in sets
            for share, layer in zip(shares, maps.children(), strict=True)
        ]
        count = self.num_states + 1
        whole = Dense(self.num_features, self.num_classes)
        columns = [sum(share * layer.weight for share, layer in parts[i::count]) for i in range(count)]
        whole.weight = nn.Parameter(torch.cat(columns, 1), requires_grad=False)
        whole.bias = nn.Parameter(sum(share * layer.bias for share, layer in parts), requires_grad=False)
        self.classifier, self.classifier_dist = whole, None
        self.weights = self.weights_dist = None
        return self


def _fused(maps: nn.Module, weights: Tensor | None, features: Sequence[Tensor]) -> Tensor:
    """The weighted sum of what each map makes of its feature."""
    logits = torch.stack([layer(feature) for layer, feature in zip(maps.children(), features, strict=True)])
    return logits[0] if weights is None else (weights.softmax(0)[:, None, None] * logits).sum(0)


def _with_eps(norm: Slot, eps: float) -> Slot:
    table = norm.call if isinstance(norm.call, dict) else {"block": norm.call}
    return Slot({**table, "eps": eps}, norm.place)
