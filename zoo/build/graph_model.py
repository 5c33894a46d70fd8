"""A model that ends in a graph: a decoder, a neck with heads, a net of several streams, behind stem and stages or without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.registry.errors import SizeError
from zoo.build import surgery
from zoo.build.backbone import Backbone, Stage, in_memory_order


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
        """What the graph reads of the net: `input`, `stem`, `stages.2`, `stages.2.layers.4`."""

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
        if ctx is None and self.reads_slots:
            ctx = Context()
        try:
            return self.graph(tuple(self.taps(x, ctx)), ctx)
        except SizeError as refusal:
            raise self._of_another_size(x, refusal) from None

    def taps(self, x: Tensor, ctx: Context | None) -> list[Tensor]:
        """The values that the graph reads, in its order."""
        found: dict[str, Tensor] = {}
        x = found["input"] = in_memory_order(x, self.reads_clips)
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

    def _through(self, name: str, stage: Stage, x: Tensor, ctx: Context | None, found: dict[str, Tensor]) -> Tensor:
        """The output of a stage; those of its layers that are read are put into `found`."""
        layers = [int(place.rpartition(".")[2]) for place in self.places if place.startswith(f"{name}.layers.")]
        show = dict.fromkeys(layers, x)
        y = stage(x, ctx, show) if show else run(stage, x, ctx)
        found |= {f"{name}.layers.{layer}": level for layer, level in show.items()}
        return y  # type: ignore[no-any-return]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another number of classes: the layers whose shape hangs on it are drawn anew, the rest stays."""
        surgery.reset_graph(self, num_classes)
