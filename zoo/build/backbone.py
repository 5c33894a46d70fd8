"""The one model class: a stem, stages of layers, a head. What a model computes is in its blocks; this file only runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from blocks.chain import Chain, channels, run
from blocks.context import Context
from blocks.ops.dispatch import is_transformed
from blocks.places import check_places, has_places
from zoo.build import config, groups, surgery
from zoo.build.checkpointing import checkpointed
from zoo.build.inputs import meta_input
from zoo.build.levels import FeatureInfo, Indices, as_format, chosen_levels, padded, shown, square_of
from zoo.build.refusals import FOREIGN, refuse
from zoo.build.symbolic import called, opened
from zoo.errors import InputError, Problem
from zoo.specs.inputs import AnyInput, FramesInput, ImageInput, VideoInput
from zoo.specs.model import Spec

LAYERS = ("layers",)
"""`family.levels` of nets in which each layer of each stage is a level."""


def as_read(x: Tensor, declared: AnyInput) -> Tensor:
    """What the blocks meet of an input: images with channels last in memory, clips as they are or as their frames.

    Raises InputError for a batch of batches."""
    if isinstance(x, Proxy):  # a symbolic trace knows no sizes, and is of models that read images
        return x.contiguous(memory_format=torch.channels_last)
    if x.ndim == 5 and isinstance(declared, FramesInput):
        x = x.flatten(0, 1)
    if x.ndim == 5 and not isinstance(declared, VideoInput):
        step = "in a Dataset, `zoo.transform(model).one(picture)` gives (C, H, W)"
        found = f"{tuple(x.shape)}, a batch of batches"
        raise InputError("forward", Problem("x", "images (B, C, H, W)", found, next=step))
    if x.ndim != 4 or is_transformed():  # vmap knows no layouts
        return x
    return x.contiguous(memory_format=torch.channels_last)


class Stage(nn.Module):
    """y = post(exit(layers(enter(downsample(x))))); what the spec leaves out is not there."""

    takes_ctx = True
    grad_checkpointing = False

    def __init__(
        self, downsample: nn.Module | None, view: nn.Module | None, layers: Sequence[Chain], post: nn.Module | None
    ):
        super().__init__()
        self.downsample = downsample
        self.view = view
        self.layers = nn.ModuleList(layers)
        self.post = post

    def forward(
        self,
        x: Tensor,
        ctx: Context | None = None,
        show: dict[int, Tensor] | None = None,
        stop_early: bool = False,
        tokens: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """`show` holds the layers whose outputs are wanted, and takes them as maps, `tokens` those that are wanted as they flow; with
        `stop_early` the last of the maps is all."""
        if self.downsample is not None:
            x = run(self.downsample, x, ctx)
        memo: Any = None
        if self.view is not None:
            if has_places(ctx):
                check_places(self.view, ctx)
            x, memo = called(self.view, "enter", x)
        for i, layer in enumerate(self.layers):
            x = checkpointed(layer, x, ctx) if self._is_checkpointed(x) else layer(x, ctx)
            if tokens is not None and i in tokens:
                tokens[i] = x
            if show is not None and i in show:
                show[i] = shown(self.view, x, memo)
                if stop_early and i == max(show):
                    return show[i]
        if self.view is not None:
            x = called(self.view, "exit", x, memo)
        return x if self.post is None else run(self.post, x, ctx)

    def _is_checkpointed(self, x: Tensor) -> bool:
        return self.grad_checkpointing and torch.is_grad_enabled() and (x.requires_grad or self.training)


class Backbone(nn.Module):
    """A model built from a spec.

    Images (B, C, H, W) -> logits (B, num_classes), or with `out_indices` a list of feature maps, one per chosen level.
    `.spec` is the filled spec, `.digest` its identity. The stream between blocks is channels_last in memory. Where a block
    reads a slot and the caller brings no ctx, one is made for the pass.
    """

    out_indices: tuple[int, ...] | None = None
    _multiple: tuple[tuple[Any, ...], int] | None = None
    rebuild: Callable[[Spec], Backbone]
    """Builds a spec anew on meta; `zoo.build.builder.build`, which leaves itself here."""
    pretrained: Any = None

    def __init__(
        self, spec: Spec, stem: nn.Module | None, stages: Sequence[Stage], head: nn.Module | None, num_features: int
    ):
        super().__init__()
        self.spec = spec
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.num_features = num_features
        # and stay so: pruning may leave one stage of many
        self.levels_are_layers = len(stages) == 1 or spec.family.levels == LAYERS
        self.reads_slots = any(getattr(module, "reads", None) is not None for module in self.modules())

    # what it is

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

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """Input, normalisation and the names of first and last layer, under timm's keys."""
        return config.pretrained_cfg(self)

    default_cfg = pretrained_cfg

    # the passes

    def forward(self, x: Tensor, ctx: Context | None = None) -> Any:
        if isinstance(x, Proxy):
            with opened(x.tracer):
                return self._forward(x, None if isinstance(ctx, Proxy) else ctx)
        return self._forward(x, ctx)

    def _forward(self, x: Tensor, ctx: Context | None) -> Any:
        if self.out_indices is not None:
            return self._levels(x, self.out_indices, ctx)[1]
        if ctx is None and self.reads_slots:
            ctx = Context()
        return self.forward_head(self.forward_features(x, ctx), ctx=ctx)

    def forward_features(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        """The map or tokens before the head; where that reads slots and the caller brings no ctx, they carry what it reads.

        Raises InputError for what is no input of its kind, and for pictures of a size that it cannot take.
        """
        context = Context() if ctx is None and self.reads_slots else None
        y = x
        try:
            y = self._enter(y, ctx or context)
            for stage in self.stages:
                y = stage(y, ctx or context)
        except FOREIGN as error:
            refuse(error, x, self)
            raise
        if context is not None:
            y.ctx = context  # type: ignore[attr-defined]
        return y

    def forward_head(self, x: Tensor, pre_logits: bool = False, ctx: Context | None = None) -> Tensor:
        """The logits of features; with `pre_logits` to what the classifier reads, (B, head_hidden_size).

        The features of `forward_features` themselves, where the head reads slots: a copy of them no longer carries those."""
        ctx = getattr(x, "ctx", None) if ctx is None and self.reads_slots else ctx
        return x if self.head is None else self.head(x, ctx, pre_logits=pre_logits)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Indices = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """(features, levels), or the levels alone with `intermediates_only`; features are those of `forward_features`.

        indices: levels from 0, negative ones from the last; an int n means the last n; None all. `norm` applies the
        head's norm, if that stands before the pooling, to levels of the head's width. `stop_early` runs nothing behind the last level wanted. `output_fmt`:
        NCHW gives maps, NLC (B, H*W, C). Raises InputError for a level that is not there.
        """
        chosen = chosen_levels(indices, self.num_levels)
        ctx = Context() if self.reads_slots else None
        features, levels = self._levels(x, chosen, ctx, stop_early)
        if ctx is not None:
            features.ctx = ctx  # type: ignore[attr-defined]
        last_norm = getattr(self.head, "norm", None) if norm and self._norms_features else None
        levels = [
            run(last_norm, y) if last_norm is not None and channels(y) == self.num_features else y for y in levels
        ]
        levels = [as_format(y, output_fmt) for y in levels]
        return levels if intermediates_only else (features, levels)

    @property
    def _norms_features(self) -> bool:
        """Whether the head's norm is one of every position; in a transformer that gives its class token it is, too."""
        return self.levels_are_layers or bool(getattr(self.head, "norm_first", False))

    def _levels(
        self, x: Tensor, wanted: Sequence[int], ctx: Context | None, stop_early: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """The features, or the last of the levels with `stop_early`, and the levels wanted."""
        try:
            return self._run_levels(x, wanted, ctx, stop_early)
        except FOREIGN as error:
            refuse(error, x, self)
            raise

    def _run_levels(
        self, x: Tensor, wanted: Sequence[int], ctx: Context | None, stop_early: bool
    ) -> tuple[Tensor, list[Tensor]]:
        if ctx is None and self.reads_slots:
            ctx = Context()
        if self.levels_are_layers:
            return self._run_layers(x, wanted, ctx, stop_early)
        names = self.level_names()
        last = names[max(wanted)]
        features: dict[str, Tensor] = {}
        x = as_read(x, self.spec.input)
        for name, part in self.parts():
            features[name] = x = run(part, x, ctx)
            if stop_early and name == last:
                break
        return x, [self._map(features[names[i]]) for i in wanted]

    def _run_layers(
        self, x: Tensor, wanted: Sequence[int], ctx: Context | None, stop_early: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """`_run_levels` where levels are layers, which count through all stages."""
        x, first, levels = self._enter(x, ctx), 0, dict.fromkeys(wanted, x)
        for stage in self.stages:
            end = first + len(stage.layers)  # type: ignore[arg-type]
            is_last = stop_early and max(wanted) < end
            show = {i - first: x for i in wanted if first <= i < end}
            x = stage(x, ctx, show, is_last)
            levels |= {first + i: level for i, level in show.items()}
            if is_last:
                break
            first = end
        return x, [levels[i] for i in wanted]

    def _map(self, level: Tensor) -> Tensor:
        """Of a net for images, tokens between the stages as a map."""
        is_image = isinstance(self.spec.input, ImageInput)
        return square_of(level) if is_image and level.ndim == 3 else level

    def parts(self) -> list[tuple[str, nn.Module]]:
        """Everything before the head in its order: the stem, or each part of it, and the stages."""
        stem = {"stem": self.stem} if self.stem is not None else {}
        if type(self.stem) is Chain:  # a list of parts, not a block that is made as one
            stem = {f"stem.{name}": part for name, part in self.stem.named_children()}
        return [*stem.items(), *((f"stages.{i}", stage) for i, stage in enumerate(self.stages))]

    def _enter(self, x: Tensor, ctx: Context | None) -> Tensor:
        x = as_read(x, self.spec.input)
        return x if self.stem is None else run(self.stem, x, ctx)

    # levels

    def level_names(self) -> list[str]:
        """The modules behind which a feature level stands: those that the family names, else each stage, or each layer of the only one."""
        if self.levels_are_layers:
            counts = [len(stage.layers) for stage in self.stages]  # type: ignore[arg-type]
            return [f"stages.{i}.layers.{j}" for i, count in enumerate(counts) for j in range(count)]
        parts = [name for name, _ in self.parts()]
        named = [name for name in self.spec.family.levels if name in parts]
        return named or [name for name in parts if name.startswith("stages")]

    @property
    def num_levels(self) -> int:
        """How many feature levels there are."""
        return len(self.level_names())

    @torch.no_grad()
    def feature_rows(self) -> list[dict[str, Any]]:
        """One row per level: `num_chs`, `reduction` (input size over feature size), `module`; none without stages. Runs a copy on meta."""
        if not self.num_levels:
            return []
        probe, twin = meta_input(self.spec), self.rebuild(self.spec)
        side, reduction, names = probe.shape[-1], 1, twin.level_names()
        rows = []
        for i, y in enumerate(twin._levels(probe, range(twin.num_levels), None)[1]):
            if y.ndim == 4:  # step by step, since odd sizes are rounded at each: 224 / 64 shows as 4 pixels
                side, reduction = y.shape[-1], reduction * round(side / y.shape[-1])
            rows.append({"num_chs": channels(y), "reduction": reduction, "module": names[i], "index": i})
        return rows

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels, reduction and module names of the feature levels.

        A level is H / reduction rows high where that is whole; else each stride rounds, up where a convolution has a border and down
        where it cuts patches. A decoder that adds levels up wants pictures of multiples of `multiple`: see `pad_to_multiple`.
        """
        rows = self.feature_rows()
        return FeatureInfo(rows, self.out_indices if self.out_indices is not None else range(len(rows)))

    def pad_to_multiple(self, x: Tensor, value: float = 0.0) -> Tensor:
        """(..., H, W) with `value` below and to the right, up to the next multiples of `feature_info.multiple`.

        Each chosen level is then H / reduction rows high exactly. Pictures are filled with 0, their labels with the value that the
        loss ignores; `logits[..., :H, :W]` takes the border off again.
        """
        key = self.digest, self.out_indices, len(self.stages)
        if self._multiple is None or self._multiple[0] != key:  # which takes a pass on meta
            self._multiple = key, self.feature_info.multiple
        return padded(x, self._multiple[1], value)

    # changes of a model that is there

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another number of classes (0 for none), drawn anew; `global_pool` as in `create`. The rest of the head stays."""
        surgery.reset_classifier(self, num_classes, global_pool)

    def set_input_size(self, img_size: int | Sequence[int]) -> None:
        """Images of another size: position tables and the like are resampled, everything else stays."""
        surgery.set_input_size(self, img_size)

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes what lies behind the last of these levels, in place; returns the levels. See `forward_intermediates`."""
        return surgery.prune(self, indices, prune_norm, prune_head)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keeps no activations inside layers for the backward pass; they are computed again there, and running statistics move once."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    # training

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are never decayed: tables of positions, decays of recurrences and the like."""
        return groups.no_weight_decay(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that group parameters by depth, in timm's form; `coarse` by stage instead of by layer."""
        return groups.group_matcher(coarse)
