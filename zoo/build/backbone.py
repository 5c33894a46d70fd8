"""The one model class: a stem, stages of layers, a head. What a model computes is in its blocks; this file only runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from blocks.chain import Chain, run
from blocks.context import Context
from zoo.specs.model import Spec


class Stage(nn.Module):
    """y = post(exit(layers(enter(downsample(x))))); what the spec leaves out is not there."""

    def __init__(
        self, downsample: nn.Module | None, view: nn.Module | None, layers: Sequence[Chain], post: nn.Module | None
    ):
        super().__init__()
        self.downsample = downsample
        self.view = view
        self.layers = nn.ModuleList(layers)
        self.post = post

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if self.downsample is not None:
            x = run(self.downsample, x, ctx)
        memo: Any = None
        if self.view is not None:
            x, memo = self.view.enter(x)  # type: ignore[operator]
        for layer in self.layers:
            x = layer(x, ctx)
        if self.view is not None:
            x = self.view.exit(x, memo)  # type: ignore[operator]
        return x if self.post is None else run(self.post, x, ctx)


class FeatureInfo:
    """Width, stride and module of each feature level, as timm tells them."""

    def __init__(self, rows: Sequence[dict[str, Any]], out_indices: Sequence[int]):
        self.rows, self.out_indices = list(rows), tuple(out_indices)

    def channels(self) -> list[int]:
        return [self.rows[i]["num_chs"] for i in self.out_indices]

    def reduction(self) -> list[int]:
        return [self.rows[i]["reduction"] for i in self.out_indices]

    def module_name(self) -> list[str]:
        return [self.rows[i]["module"] for i in self.out_indices]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)


class Backbone(nn.Module):
    """A model built from a spec.

    Images (B, C, H, W) -> logits (B, num_classes), or with `out_indices` a list of feature maps, one per chosen stage.
    `.spec` is the filled spec, `.digest` its identity. The stream between blocks is channels_last in memory. Where a block
    reads a slot and the caller brings no ctx, one is made for the pass.
    """

    out_indices: tuple[int, ...] | None = None

    def __init__(
        self, spec: Spec, stem: nn.Module | None, stages: Sequence[Stage], head: nn.Module | None, num_features: int
    ):
        super().__init__()
        self.spec = spec
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.num_features = num_features
        self.reads_slots = any(getattr(module, "reads", None) is not None for module in self.modules())

    @property
    def digest(self) -> str:
        return self.spec.digest

    @property
    def num_classes(self) -> int:
        """Width of the output; 0 without a classifier."""
        return self.spec.num_classes if self.head is not None else 0

    @property
    def head_hidden_size(self) -> int:
        """Width of what the classifier reads."""
        return int(getattr(self.head, "num_features", self.num_features))

    def get_classifier(self) -> nn.Module | None:
        """The last linear layer, None when there is none."""
        return getattr(self.head, "classifier", None)

    def forward_features(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        """The map or tokens before the head."""
        x = self._enter(x, ctx)
        for stage in self.stages:
            x = stage(x, ctx)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False, ctx: Context | None = None) -> Tensor:
        """From features to logits; with `pre_logits` to what the classifier reads, (B, head_hidden_size)."""
        return x if self.head is None else self.head(x, ctx, pre_logits=pre_logits)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Any:
        if self.out_indices is not None:
            return self._levels(x, ctx)
        if ctx is None and self.reads_slots:
            ctx = Context()
        return self.forward_head(self.forward_features(x, ctx), ctx=ctx)

    def _levels(self, x: Tensor, ctx: Context | None) -> list[Tensor]:
        assert self.out_indices is not None
        x = self._enter(x, ctx)
        levels = []
        for stage in self.stages:
            x = stage(x, ctx)
            levels.append(x)
        return [levels[i] for i in self.out_indices]

    def _enter(self, x: Tensor, ctx: Context | None) -> Tensor:
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x if self.stem is None else run(self.stem, x, ctx)

    def feature_rows(self) -> list[dict[str, Any]]:
        """One row per stage: `num_chs`, `reduction` (input size over feature size), `module`. Runs a copy on meta."""
        from zoo.build.builder import build, meta_input

        probe = meta_input(self.spec)
        twin = build(self.spec)
        side = probe.shape[-1]
        with torch.no_grad():
            x = twin._enter(probe, None)
            rows = []
            for i, stage in enumerate(twin.stages):
                x = stage(x)
                width, reduction = (x.shape[1], side // x.shape[-1]) if x.ndim == 4 else (x.shape[-1], 1)
                rows.append({"num_chs": width, "reduction": reduction, "module": f"stages.{i}"})
        return rows

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels, reduction and module names of the feature levels."""
        indices = self.out_indices if self.out_indices is not None else range(len(self.stages))
        return FeatureInfo(self.feature_rows(), indices)
