"""A subject of the conformance checks: one block, its parameters made up from its schema, its inputs from its kind and layout."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from blocks import registry
from blocks.chain import run
from blocks.construct import construct
from blocks.context import Context
from blocks.registry.errors import BlockError, Problem
from blocks.registry.schema import CALL
from blocks.registry.slots import Place
from blocks.wiring.graph import merged

DIM = 64
BATCH = 2
NUM_CLASSES = 10
PATH = "subject"
FRAMES = 4

OUT_DIMS = {"stem": 64, "downsample": 128, "linear": 96}
"""The width asked of a block whose kind is there to change it."""

FROM_PIXELS = ("stem", "whole")
"""Kinds that are shown an image of 3 channels, large enough for strides."""

EXAMPLES = {
    "norm": "layer_norm",
    "act": "gelu",
    "linear": "dense",
    "channel_mixer": "mlp",
    "token_mixer": "attention",
    "router": "topk_router",
    "view": "resized",
}
"""The block that stands in a required slot of a kind; where it is not registered, the first of that kind."""

PARTS = ("layer_norm", "mlp")
"""What a wiring joins."""

SMALL = (3, 4, 2, 8, 1)
"""Values tried for required integers, until the block builds: 3 is an odd kernel, 4 divides the width."""

SPACES_OF_LAYOUT = {"BCHW": ("image",), "BLC": ("tokens", "image"), "BCTHW": ("video",), "any": ("image", "tokens")}
"""The inputs that a layout promises to take, its own first."""

SPACE_OF_ABILITY = {"1d": "tokens", "2d": "image", "3d": "video"}

CALLS: dict[str, dict[str, Any]] = {
    "core/graph@1": {
        "parts": [
            {"name": "a", "from": ["x"], "do": ["layer_norm", "mlp"]},
            {"name": "b", "from": ["a", {"of": "x", "do": ["layer_norm"]}], "merge": "sum", "do": ["mlp"]},
        ],
    },
    "core/heterogeneous_attention@1": {"rank": 8},
    "core/box_decoder@1": {"strides": [8, 16]},
    "core/squares@1": {"size": 7, "inside": "sum"},
    "core/radial_basis@1": {"cutoff": 20.0},
    "core/voxel_attention@1": {"signals": [{"name": "xyz", "reach": 2, "steps": 4}], "num_heads": 4},
    "core/anchor_boxes@1": {
        "strides": [8, 16],
        "scales": [1.0, 2.0, 4.0, 8.0],
        "ratios": [[1.0, 1.0], [2.0, 1.0], [1.0, 2.0], [4.0, 1.0]],
    },
    "core/default_boxes@1": {"ratios": [1.0, 2.0, 0.5] * 5, "reduced": False},
    "core/default_scores@1": {"per": [2, 2]},
    "core/hip_attention@1": {"mask_k": 64},
}
"""Values of parameters that cannot be made up from their schema alone: names that mean each other, widths that follow from others, a number of
keys that is smaller than the sequences which are shown."""

POINTS, LISTED = 7, 5
"""Points of two groups, and the neighbours of each."""

MEETS: dict[str, tuple[str, ...]] = {
    "core/relative_distances@1": ("places", "groups"),
    "core/soft_distances@1": ("places", "groups"),
    "core/nearest_neighbours@1": ("distances",),
    "core/listed_values@1": ("distances", "list"),
    "core/listed_steps@1": ("places", "list"),
    "core/listed_rows@1": ("points", "list"),
    "core/group_sum@1": ("points", "one_group"),
    "core/pair_matrices@1": ("three", "steps"),
    "core/matrix_messages@1": ("matrices", "three", "list"),
    "core/matrix_gates@1": ("matrices", "gates"),
    "core/matrix_product@1": ("matrices", "matrices"),
    "core/neighbour_attention@1": ("pairs", "pairs", "pairs", "steps", "fading"),
    "core/direction_order@1": ("steps", "fading"),
    "core/voxel_attention@1": ("points", "groups", "places"),
    "core/space_windows@1": ("places", "groups"),
    "core/coarser_voxels@1": ("places", "groups"),
    "core/sparse_conv@1": ("points", "places", "groups"),
    "core/distance_mean@1": ("pairs", "fading"),
}
"""What merges meet that do not take several streams of one shape: the words of `FORMS`, of sets of points without a batch."""

FORMS: dict[str, tuple[int, ...]] = {
    "places": (3,), "points": (DIM,), "groups": (), "one_group": (), "gates": (3 * DIM,), "distances": (POINTS,), "list": (LISTED,),
    "pairs": (LISTED, DIM), "three": (LISTED, 3 * DIM), "steps": (LISTED, 3), "fading": (LISTED, 1), "matrices": (9, DIM),
}  # fmt: skip
"""The shape of each behind the axis of points; groups and lists are whole numbers."""


class Subject:
    """One registered block under check. `headers`, where given, holds the published (name -> shape) of each identity."""

    def __init__(self, name: str, headers: Mapping[str, Mapping[str, list[int]]] | None = None):
        self.name, self.headers = name, headers
        self._lived_in: dict[str, nn.Module] = {}

    @functools.cached_property
    def info(self) -> registry.BlockInfo:
        return registry.info_of(registry.get(self.name))

    @functools.cached_property
    def call(self) -> dict[str, Any]:
        """A call that states what has no default: the first choice of small integers that the block accepts."""
        tries = [example_call(self.info, small) for small in SMALL]
        for table in tries:
            try:
                with torch.device("meta"):
                    self._construct(table, self.spaces[0])
            except BlockError:
                continue
            return table
        return tries[0]

    @property
    def spaces(self) -> tuple[str, ...]:
        """`image`, `tokens`, both or `video`, as layout and the abilities `1d`, `2d` and `3d` promise; the block's own layout first.

        `points` alone for blocks of sets of points."""
        if self.meets:
            return ("points",)
        declared = {SPACE_OF_ABILITY[ability] for ability in self.info.abilities if ability in SPACE_OF_ABILITY}
        return tuple(space for space in SPACES_OF_LAYOUT[self.info.layout] if not declared or space in declared)

    @property
    def in_dim(self) -> int:
        return 3 if self.info.kind in FROM_PIXELS else DIM

    @property
    def meets(self) -> tuple[str, ...]:
        """What the block meets in the place of streams, as `FORMS` says; empty for most."""
        return MEETS.get(self.info.id, ())

    @property
    def takes_ids(self) -> bool:
        """Whether the input is token numbers."""
        return "vocab_size" in self.info.params or bool(getattr(registry.get(self.name), "takes_ids", False))

    def size(self, space: str) -> tuple[int, ...]:
        side = 32 if self.info.kind in FROM_PIXELS else 14
        return {"image": (side, side), "video": (FRAMES, side, side)}.get(space, (side * side,))

    def build(
        self, space: str, *, out_dim: int | None = None, seed: int = 0, device: str = "cpu", **params: Any
    ) -> nn.Module:
        """The block in eval mode, initialised under `seed`, for inputs of `space`; `params` are set beside the defaults."""
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(seed)
            return self._construct({**self.call, **params}, space, out_dim).eval()

    def _construct(self, table: dict[str, Any], space: str, out_dim: int | None = None) -> nn.Module:
        stage_dims = (self.in_dim,) * 4
        place = Place(PATH, sizes=lambda: self.size(space), num_classes=NUM_CLASSES, stage_dims=stage_dims)
        supplied: dict[str, Any] = {"bias": True} if self.info.kind == "linear" else {}
        if self.info.kind == "merge":
            supplied["dims"] = tuple((1, *FORMS[word])[-1] for word in self.meets) or (self.in_dim,) * 2
        width = out_dim or OUT_DIMS.get(self.info.kind)
        return cast(nn.Module, construct(table, place, self.in_dim, width, **supplied))  # only "none" builds nothing

    def lived_in(self, space: str, **params: Any) -> nn.Module:
        """The block as after some training: every parameter and running statistic moved at random. Shared: copy before changing it."""
        key = f"{space} {params}"
        if key not in self._lived_in:
            self._lived_in[key] = perturbed(self.build(space, **params))
        return self._lived_in[key]

    def input(
        self, space: str, size: tuple[int, ...] | None = None, seed: int = 1, batch: int = BATCH, points: int = POINTS
    ) -> Tensor:
        """A random input: (B, C, H, W) in channels_last, (B, L, C), clips (B, C, T, H, W), token numbers (B, L), or the first of `meets`."""
        generator = torch.Generator().manual_seed(seed)
        if self.meets:
            return drawn(self.meets[0], points, seed)
        size = size or self.size(space)
        if self.takes_ids:
            return torch.randint(0, 2, (batch, math.prod(size)), generator=generator)
        if space == "tokens":
            return torch.randn(batch, *size, self.in_dim, generator=generator)
        return torch.randn(batch, *size, self.in_dim, generator=generator).movedim(-1, 1)

    def place_to_write(self) -> Context | None:
        """A ctx for a block that leaves something for others, which is work, too."""
        return Context() if "writes" in self.info.params else None

    def outputs(self, module: nn.Module, x: Tensor, ctx: Context | None = None) -> list[Tensor]:
        """Every tensor that the block gives; the first is what flows on."""
        return tensors(self.call_of(module, x, ctx)())

    def call_of(self, module: nn.Module, x: Tensor, ctx: Context | None = None) -> Callable[[], Any]:
        """One pass, for which all is there: a view is entered and left, a merge meets x and half of it, or what `meets` says."""
        if self.info.kind == "view":
            return functools.partial(_through, module, x)
        if self.info.kind == "merge":
            return functools.partial(merged, module, (x, *self._others(x)), ctx)
        return functools.partial(run, module, x, ctx)

    def _others(self, x: Tensor) -> list[Tensor]:
        """What a merge meets beside x: as many points on the same device, numbers in the same dtype."""
        if not self.meets:
            return [x / 2]
        others = [drawn(word, int(x.shape[0]), 3 + place).to(x.device) for place, word in enumerate(self.meets[1:])]
        return [other.to(x.dtype) if other.is_floating_point() else other for other in others]

    def run(self, module: nn.Module, x: Tensor, ctx: Context | None = None) -> Tensor:
        return self.outputs(module, x, ctx)[0]


def _through(view: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """What comes out of a view, and what is inside."""
    inside, memo = view.enter(x)
    return view.exit(inside, memo), inside


def drawn(word: str, points: int, seed: int) -> Tensor:
    """What a word of `FORMS` means for so many points: the first in group 0, the last in 1; lists with some that have no neighbour.

    Drawn by numpy, so that no counter of operations sees it."""
    shape, random = (points, *FORMS[word]), np.random.RandomState(seed)
    if word in ("groups", "one_group"):
        return torch.from_numpy(np.arange(points) * (2 if word == "groups" else 1) // max(points, 1))
    if word == "list":
        return torch.from_numpy(random.randint(-1, max(points, 1), shape).clip(max=points - 1))
    if word == "distances":  # from each point to all that there are
        shape = (points, max(points, POINTS))
    values = random.uniform(0, 1.2, shape) if word in ("distances", "fading") else random.standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def example_call(info: registry.BlockInfo, small: int) -> dict[str, Any]:
    """A call of the block with its required parameters made up, integers being `small` where they may."""
    required = {name: param.schema for name, param in info.params.items() if param.required}
    made = {
        name: example(schema, small, info.kind)
        for name, schema in required.items()
        if name not in CALLS.get(info.id, {})
    }
    return {"block": info.id} | made | CALLS.get(info.id, {})


def example(schema: dict[str, Any], small: int, host_kind: str) -> Any:
    """A value that meets a schema fragment."""
    if "anyOf" in schema:
        return example(next(option for option in schema["anyOf"] if "const" not in option), small, host_kind)
    if schema.get("$ref") == CALL:
        return _example_slot(schema.get("kinds"), small, host_kind)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if schema.get("type") == "array":
        return _example_list(schema, small, host_kind)
    if schema.get("type") == "object":
        return {key: example(schema["properties"][key], small, host_kind) for key in schema.get("required", ())}
    return _example_scalar(schema, small)


def _example_list(schema: dict[str, Any], small: int, host_kind: str) -> list[Any]:
    """Two items where two may be; those of a wiring are a norm and a mixer."""
    count = max(schema.get("minItems", 0), min(2, schema.get("maxItems", 2)))
    prefix, items = schema.get("prefixItems", []), schema.get("items", {})
    if host_kind == "wiring" and any(option.get("$ref") == CALL for option in items.get("anyOf", [items])):
        return [PARTS[i % 2] for i in range(count)]
    return [example(prefix[i] if i < len(prefix) else items, small, host_kind) for i in range(count)]


def _example_scalar(schema: dict[str, Any], small: int) -> Any:
    kind = schema["type"]
    if kind in ("boolean", "string"):
        return False if kind == "boolean" else "x" * max(1, schema.get("minLength", 1))
    margin = 1.0 if kind == "integer" else 0.5
    low = schema.get("minimum", schema.get("exclusiveMinimum", -margin) + margin)
    high = schema.get("maximum", schema.get("exclusiveMaximum", math.inf) - margin)
    if kind == "number":
        return float(min(max(1.0, low), high))
    step = schema.get("multipleOf", 1)
    return -(-int(min(max(small, low), high)) // step) * step


def _example_slot(kinds: list[str] | None, small: int, host_kind: str) -> Any:
    """A block for a slot: a norm and a mixer for a wiring, else one block of the asked kinds."""
    if kinds is None:
        return list(PARTS) if host_kind == "wiring" else "mlp"
    for kind in sorted(kinds, key=lambda kind: kind not in EXAMPLES):
        names = registry.list_blocks(kind=kind)
        if names:
            name = EXAMPLES[kind] if EXAMPLES.get(kind) in names else names[0]
            return example_call(registry.describe(name), small)
    raise BlockError("", Problem("", f"a registered block of kind {' or '.join(kinds)}", "none"))


def perturbed(module: nn.Module) -> nn.Module:
    """`module` with noise on every parameter and statistic, so that zero-initialised gates and scales hide nothing."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
            elif name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
    return module


def tensors(value: Any) -> list[Tensor]:
    """The tensors within what a block gives: itself, or those in a tuple, a table or a struct."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        items = list(value.values())
    elif isinstance(value, (tuple, list)):
        items = list(value)
    else:  # dataclasses and structs list their fields here; numbers have none
        items = [getattr(value, name) for name in getattr(value, "__match_args__", ())]
    return [tensor for item in items for tensor in tensors(item)]
