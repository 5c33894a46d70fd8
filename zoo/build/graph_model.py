"""A model that ends in a graph: a decoder, a neck with heads, a net of several streams, behind stem and stages or without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from blocks.chain import run
from blocks.context import Context
from zoo.build import surgery
from zoo.build.backbone import Backbone, Stage, as_read
from zoo.build.refusals import FOREIGN, refuse
from zoo.errors import InputError, Problem, listed, nearest
from zoo.specs.inputs import Ids, Mask, Named, Numbers

NOTHING: Mapping[str, Any] = {}


class GraphModel(Backbone):
    """A model built from a spec with a graph.

    Images (B, C, H, W) -> what the graph gives: one tensor, or {name: tensor} where it has several outputs in this mode. Stem and stages,
    where there are any, are a backbone like all others: their maps are had by `features_only` and `forward_intermediates`.
    """

    graph: nn.Module | None

    def __init__(
        self, spec: Any, stem: nn.Module | None, stages: Sequence[Stage], head: nn.Module | None, num_features: int
    ):
        super().__init__(spec, stem, stages, head, num_features)
        self.graph = None
        self.places: tuple[str, ...] = tuple(spec.graph["inputs"])
        """What the graph reads of the net: `input`, `stem`, `stages.2`, `stages.2.layers.4`, `stages.2.layers.4.tokens`."""

    def put_graph(self, graph: nn.Module | None) -> None:
        """Another graph, or none."""
        self.graph = graph
        self.reads_slots = any(getattr(module, "reads", None) is not None for module in self.modules())

    @property
    def num_classes(self) -> int:
        return self.spec.num_classes if self.graph is not None else 0

    def _forward(self, x: Tensor, ctx: Context | None) -> Any:
        if self.out_indices is not None or self.graph is None:
            return super()._forward(x, ctx)
        if isinstance(x, Proxy) and getattr(x.tracer, "root", None) is self:
            found, step = (
                "a net with a `graph` of its own, as torch calls its record",
                "trace `torch.nn.Sequential(model)`",
            )
            raise InputError(self.spec.name, Problem("", "a net that torch.fx can record", found, next=step))
        if ctx is None and self.reads_slots:
            ctx = Context()
        try:
            return self.graph(tuple(self.taps(x, ctx)), ctx)
        except FOREIGN as error:
            refuse(error, x, self)
            raise

    def taps(self, x: Tensor, ctx: Context | None, beside: Mapping[str, Any] = NOTHING) -> list[Any]:
        """The values that the graph reads, in its order; `beside` are inputs of the model beside the first, by name."""
        found: dict[str, Any] = dict(beside)
        x = found["input"] = as_read(x, self.spec.input)
        for name, part in self.parts():
            if isinstance(part, Stage):
                x = self._through(name, part, x, ctx, found)
            else:
                x = run(part, x, ctx)
            if name in self.places:
                found[name] = x
            if name.startswith("stem") and "stem" in self.places:  # behind the last of its parts
                found["stem"] = x
        return [found[name] for name in self.places]

    def _through(self, name: str, stage: Stage, x: Tensor, ctx: Context | None, found: dict[str, Any]) -> Tensor:
        """The output of a stage; those of its layers that are read are put into `found`."""
        layers = [place.split(".") for place in self.places if place.startswith(f"{name}.layers.")]
        show = {int(steps[3]): x for steps in layers if len(steps) == 4}
        tokens = {int(steps[3]): x for steps in layers if len(steps) == 5}
        y = stage(x, ctx, show, tokens=tokens) if layers else run(stage, x, ctx)
        found |= {f"{name}.layers.{layer}": level for layer, level in show.items()}
        found |= {f"{name}.layers.{layer}.tokens": stream for layer, stream in tokens.items()}
        return y  # type: ignore[no-any-return]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another number of classes: the layers whose shape hangs on it are drawn anew, the rest stays."""
        surgery.reset_graph(self, num_classes)


class ManyInputs(GraphModel):
    """A model built from a spec with `inputs`: what goes in beside the first input is read by the graph, by name.

    model(x, t, y), or model(x, t=t, y=y): the first input, then the others in the order of the spec. A mask may be left out, or None.
    """

    def forward(self, x: Tensor, *others: Any, ctx: Context | None = None, **named: Any) -> Any:  # type: ignore[override]
        """Raises InputError for an input that is missing, one that has no place, and another kind of numbers than the spec says."""
        given = self.named(others, named)
        try:
            beside = self.beside(x, given)
            if self.graph is None or self.out_indices is not None:
                return super().forward(x, ctx)
            if ctx is None and self.reads_slots:
                ctx = Context()
            return self.graph(tuple(self.taps(x, ctx, beside)), ctx)
        except FOREIGN as error:
            refuse(error, x, self, given)
            raise

    def beside(self, like: Tensor, given: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs beside the first, `like`, as the graph reads them, by name."""
        return {each.name: as_sequence(each, given.get(each.name), like) for each in self.spec.inputs}

    def named(self, others: Sequence[Any], named: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
        """The inputs beside the first by name, as they are given. Raises InputError."""
        declared = self.spec.inputs
        names = [each.name for each in declared]
        given = dict(zip(names, others, strict=False)) | dict(named)
        missing = [each.name for each in declared if given.get(each.name) is None and not isinstance(each, Mask)]
        strange = [name for name in named if name not in names]
        twice = [name for name in named if name in names[: len(others)]]
        if missing or strange or twice or len(others) > len(names):
            found = (
                f"no {listed(missing)}" if missing else f"{listed(strange or twice)}" if strange or twice else "more"
            )
            near = nearest(strange[0], names) if strange else ""
            raise InputError("forward", Problem("inputs", f"model(x, {', '.join(names)})", found, near))
        return given


def as_sequence(declared: Named, x: Any, like: Tensor) -> Any:
    """An input as the graph sees it: numbers (B, L, C), ids (B, L). What has no length is one long, a number one wide; of several
    streams (N, B, L, C) the channels lie side by side, (B, L, N C). What has no batch stays as it is.

    Raises InputError for ids that are no whole numbers, and for a mask of other numbers than ones and zeros."""
    if isinstance(declared, Mask) and isinstance(x, Tensor) and x.dtype != torch.bool:
        if x.is_complex() or not bool(((x == 0) | (x == 1)).all()):
            raise InputError(
                "forward", Problem(declared.name, "truths, or ones and zeros", f"other numbers in {x.dtype}")
            )
        x = x == 1
    if x is None or "batch" not in declared.shape:
        return x
    if isinstance(declared, Numbers):
        x = x if x.is_floating_point() or x.is_complex() else x.to(like.dtype)
        if before := declared.shape.index("batch"):
            return x.flatten(0, before - 1).movedim(0, -2).flatten(-2)
        return x.view(-1, 1, 1) if x.ndim == 1 else x.unsqueeze(1) if x.ndim == 2 else x
    if isinstance(declared, Ids) and x.is_floating_point():
        raise InputError("forward", Problem(declared.name, "whole numbers", str(x.dtype)))
    return x.unsqueeze(1) if x.ndim == 1 else x
