"""Spec -> Backbone on the meta device: every part built for the width and size that reach it, all refusals reported together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from blocks.chain import Chain, StandIn, channels, run
from blocks.construct import build_chain, construct
from blocks.primitives.norms import BatchNorm
from blocks.primitives.resize import shapes_only
from blocks.registry.errors import BlockError, Problem
from blocks.registry.slots import Place
from blocks.wiring.graph import Graph
from zoo.build.backbone import Backbone, Stage, as_read
from zoo.build.graph_model import GraphModel, ManyInputs
from zoo.build.inputs import meta_input, meta_inputs
from zoo.build.language import LanguageModel
from zoo.errors import SpecError
from zoo.specs.inputs import AnyInput, Ids, SeriesInput, TokenInput
from zoo.specs.model import Described, Spec


def build(spec: Described) -> Backbone:
    """The model of a spec on the meta device, in eval mode: a Backbone, or what the code of a plugin builds.

    Raises SpecError with every block that refuses its place."""
    if spec.factory is not None:
        return spec.factory.build("meta")  # type: ignore[no-any-return]
    problems: list[Problem] = []
    with torch.device("meta"):
        model = _Builder(cast(Spec, spec), problems).build()
    if problems:
        raise SpecError(spec.name, problems)
    model.rebuild = build
    return model.eval()


def check(spec: Spec) -> Backbone:
    """Builds and runs the model on meta. Raises SpecError for refused blocks (all), or for the first forward that fails."""
    model = build(spec)
    at: list[nn.Module] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(lambda module, _: at.append(module))
    try:
        with torch.no_grad():
            model(*meta_inputs(spec))
    except (ValueError, RuntimeError, TypeError, IndexError) as failure:
        names = {module: name for name, module in model.named_modules()}
        where = next((names[module] for module in reversed(at) if module in names), "")
        reason = str(failure).splitlines()[0]
        raise SpecError(spec.name, Problem(where, found=f"the forward pass fails here: {reason}")) from failure
    finally:
        hook.remove()
    return model


class _Builder:
    """Walks the stages in the order data flows, knowing the width, and the size when somebody asks."""

    def __init__(self, spec: Spec, problems: list[Problem]):
        self.spec, self.problems = spec, problems
        self.total_layers = max(1, sum(len(stage.layers) for stage in spec.stages))
        self.layer_index = 0
        self.stream = Stream(as_read(meta_input(spec), spec.input))
        self.place = Place(
            num_classes=spec.num_classes,
            stage_dims=tuple(spec.dims),
            failed=problems,
            sizes=self.stream.sizes,
        )

    def build(self) -> Backbone:
        spec = self.spec
        width = _width_of(spec.input)
        stem = self._part(spec.stem, "stem", width, spec.dims[0] if spec.dims else None)
        width = _width(stem, width)
        stages = []
        for i, stage in enumerate(spec.stages):
            built, width = self._stage(stage, f"stages.{i}", width, spec.dims[i])
            stages.append(built)
        head = self._part(spec.head, "head", width, None)
        self._tie(head, stem)
        reads_text = isinstance(spec.input, TokenInput) and getattr(head, "per_token", False)
        reads_text = reads_text and "causal" in head.abilities  # type: ignore[union-attr, operator]  # of a block
        graphed = ManyInputs if spec.inputs else GraphModel
        kind = graphed if spec.graph is not None else LanguageModel if reads_text else Backbone
        model = kind(spec, stem, stages, head, width)
        self._share(model)
        if not self.problems and (spec.graph is not None or any(isinstance(part, Graph) for part in model.modules())):
            self._try(model)
        for name, module in model.named_modules():
            if isinstance(module, BatchNorm):  # of a block that makes its own nobody else says where it stands
                module.path = name
        return model

    def _try(self, model: Backbone) -> None:
        """Runs a net with graphs, whose tensors may not meet, and builds the graph behind the stages for what it reads of them."""
        try:
            with torch.no_grad(), shapes_only():
                if isinstance(model, GraphModel):
                    self._behind(model)
                else:
                    model.eval()(meta_input(self.spec))
        except (ValueError, RuntimeError) as error:
            self.problems.append(Problem("", found=f"the forward pass fails: {str(error).splitlines()[0]}"))

    def _behind(self, model: GraphModel) -> None:
        first, *others = meta_inputs(self.spec)
        beside = model.beside(first, model.named(others)) if isinstance(model, ManyInputs) else {}
        inputs = model.eval().taps(first, None, beside)
        place = replace(self.place, path="graph", sizes=None, inputs=lambda: tuple(inputs))
        kinds = {named.name: named.count for named in self.spec.inputs if isinstance(named, Ids)}
        widths = tuple(kinds.get(name) or _channels(x) for name, x in zip(model.places, inputs, strict=True))
        try:
            graph = construct(self.spec.graph, place, widths[0], dims=widths)
        except BlockError as refusal:
            self.problems += [problem._replace(where=problem.where or "graph") for problem in refusal.problems]
            return
        model.put_graph(graph)
        if not self.problems:
            self.problems += graph.eval().clashes(inputs, "graph")  # type: ignore[union-attr, operator]

    def _tie(self, head: nn.Module | None, stem: nn.Module | None) -> None:
        if getattr(head, "tie", None) is None:
            return
        try:
            head.tie_to(stem)  # type: ignore[union-attr, operator]
        except ValueError as refusal:
            self.problems.append(Problem("head.tie", found=str(refusal)))

    def _share(self, model: Backbone) -> None:
        """The first wiring of each group lends its parts to the others."""
        lenders: dict[str, Any] = {}
        borrowers: list[Any] = [module for module in model.modules() if hasattr(module, "borrow")]
        for turn, wiring in enumerate(borrowers):
            try:
                wiring.borrow(lenders.get(wiring.group), turn)
            except ValueError as refusal:
                self.problems.append(Problem(wiring.path, found=str(refusal)))
            lenders.setdefault(wiring.group, wiring)

    def _stage(self, stage: Any, path: str, width: int, target: int) -> tuple[Stage, int]:
        downsample = self._part(stage.downsample, f"{path}.downsample", width, target)
        width = _width(downsample, width)
        view = self._construct(stage.view, f"{path}.view", width, None)
        inside = self.stream.inside(view) if view is not None and hasattr(view, "enter") else self.stream
        layers = []
        for j, branches in enumerate(stage.layers):
            layer = self._layer(branches, f"{path}.layers.{j}", width, target, inside)
            width = layer.out_dim
            layers.append(layer)
        if view is not None and hasattr(view, "exit"):
            self.stream.leave(inside)
        if width != target:
            found = f"width {width} after its last layer"
            self.problems.append(
                Problem(
                    path,
                    f"width {target}, as `dims` says",
                    found,
                    next="no block of this stage changes the width; state `out_dim` or a downsample",
                )
            )
            width = target
        post = self._part(stage.post, f"{path}.post", width, None)
        return Stage(downsample, view, layers, post), _width(post, width)

    def _layer(self, branches: list[Any], path: str, width: int, target: int, stream: Stream) -> Chain:
        rate = self.spec.drop_path_rate * self.layer_index / max(1, self.total_layers - 1)
        place = replace(
            self.place, path=path, depth_index=self.layer_index, drop_path=rate, layer_dim=width, sizes=stream.sizes
        )
        self.layer_index += 1
        layer = build_chain(branches, place, width, target)
        stream.pass_through(layer)
        return layer

    def _part(self, call: Any, path: str, width: int, target: int | None) -> nn.Module | None:
        module = self._construct(call, path, width, target)
        if module is not None:
            self.stream.pass_through(module)
        return module

    def _construct(self, call: Any, path: str, width: int, target: int | None) -> nn.Module | None:
        try:
            return construct(call, replace(self.place, path=path, sizes=self.stream.sizes), width, target)
        except BlockError as refusal:
            self.problems += [problem._replace(where=problem.where or path) for problem in refusal.problems]
            return StandIn(width, target or width)


class Stream:
    """The tensor that flows through what is built so far, run on meta only when a block asks for its input's size."""

    def __init__(self, x: Tensor):
        self.x = x
        self.pending: list[Callable[[Tensor], Tensor]] = []
        self.memo: Any = None
        self.view: Any = None

    def pass_through(self, module: nn.Module) -> None:
        self.pending.append(functools.partial(run, module))

    def sizes(self) -> tuple[int, ...]:
        """(H, W) of images, (L,) of tokens."""
        with torch.no_grad():
            for step in self.pending:
                self.x = step(self.x)
        self.pending.clear()
        return tuple(self.x.shape[2:]) if self.x.ndim > 3 else (self.x.shape[1],)

    def inside(self, view: nn.Module) -> Stream:
        """The stream that layers inside a view meet."""
        self.sizes()
        with torch.no_grad():
            y, memo = view.enter(self.x)  # type: ignore[operator]
        inner = Stream(y)
        inner.memo, inner.view = memo, view
        return inner

    def leave(self, inner: Stream) -> None:
        """Back to the outer stream, behind the view."""

        def exit(_: Tensor) -> Tensor:
            inner.sizes()
            y: Tensor = inner.view.exit(inner.x, inner.memo)
            return y

        self.pending.append(exit)


def _width_of(declared: AnyInput) -> int:
    """What the stem is told of the input: channels, features, or how many tokens there are."""
    if isinstance(declared, TokenInput):
        return declared.vocab_size
    return declared.features if isinstance(declared, SeriesInput) else declared.channels


def _channels(x: Tensor) -> int:
    return channels(x) if x.ndim > 1 else 1


def _width(module: nn.Module | None, width: int) -> int:
    return int(getattr(module, "out_dim", width)) if module is not None else width
