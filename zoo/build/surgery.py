"""Changing a model that is there: another classifier, another input size, fewer layers. Weights stay wherever they can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from torch import Tensor, nn

from zoo.build.init import initialise
from zoo.build.levels import Indices, chosen_levels
from zoo.errors import InputError, Problem
from zoo.specs.resolve import with_values
from zoo.specs.scalars import plain
from zoo.weights.adapt import adapt
from zoo.weights.load import expected_header, load_state, put_tensors


def reset_classifier(model: Any, num_classes: int, global_pool: str | None = None) -> None:
    """Builds the head for `num_classes`; what it shares with the old one stays, its last layers are drawn.

    Raises InputError for a model that is no longer what its spec says, unless the head is to go altogether.
    """
    values: dict[str, Any] = {"num_classes": plain(num_classes)}
    if global_pool:
        values["head"] = {"pool": global_pool}
    spec = with_values(model.spec, **values)
    head = None
    if global_pool != "":
        before, twin = model.rebuild(model.spec), model.rebuild(spec)
        _refuse_changed("reset_classifier", model, _depths(model) == _depths(before))
        _refuse_changed("reset_classifier", model, model.head is None or _names(model.head) == _names(before.head))
        head = twin.head
    if head is not None:
        _take_over(head, model.head, _like(model), spec.init)
        head.train(model.training)
    if model.pretrained is not None:
        model.pretrained = msgspec.structs.replace(model.pretrained, labels="")
    model.spec, model.head, model.out_indices = spec, head, None
    if getattr(head, "tie", None) is not None:
        head.tie_to(model.stem)  # type: ignore[union-attr, operator]


def reset_graph(model: Any, num_classes: int) -> None:
    """Builds the graph for `num_classes`; tensors of the same shape stay, the others are drawn.

    Raises InputError for a model that is no longer what its spec says.
    """
    spec = with_values(model.spec, num_classes=plain(num_classes))
    _refuse_changed("reset_classifier", model, _names(model) == _names(model.rebuild(model.spec)))
    graph, like = model.rebuild(spec).graph, _like(model)
    graph.to_empty(device=like.device)
    if not like.is_meta:
        initialise(graph, spec.init)
    graph.to(like.dtype)
    before = model.graph.state_dict(keep_vars=True)
    fits = {name for name, tensor in graph.state_dict().items() if before[name].shape == tensor.shape}
    put_tensors(graph, {name: before[name] for name in fits})
    graph.train(model.training)
    model.spec, model.out_indices = spec, None
    model.put_graph(graph)


def set_input_size(model: Any, img_size: int | Sequence[int]) -> None:
    """Builds the model for images of `img_size` around its own tensors; what depends on the size is resampled.

    Raises InputError for a model that is no longer what its spec says (deployed or pruned), WeightsError for a tensor
    that cannot follow to another size; nothing is changed then.
    """
    img_size = plain(img_size)
    size = img_size if isinstance(img_size, int) else list(img_size)
    spec = with_values(model.spec, input={"size": size})
    twin = model.rebuild(spec)
    twin.head = twin.head if model.head is not None else None
    _refuse_changed("set_input_size", model, _names(model) == _names(twin))
    _fit(twin, model)
    twin.train(model.training)
    for stage, old in zip(twin.stages, model.stages, strict=True):
        stage.grad_checkpointing = old.grad_checkpointing
    model.spec, model.stem, model.stages, model.head = spec, twin.stem, twin.stages, twin.head
    if spec.graph is not None:
        model.put_graph(twin.graph)
    if model.pretrained is not None:
        model.pretrained = model.pretrained.for_input(spec.input.channels, spec.input.size)


def _fit(twin: nn.Module, model: Any) -> None:
    """Gives the twin the model's tensors: the same objects where the shape is the same, resampled ones elsewhere."""
    current, like = model.state_dict(keep_vars=True), _like(model)
    tensors = {name: tensor.detach() for name, tensor in current.items()}
    fitted, report = adapt(tensors, expected_header(twin), subject=model.spec.name, model=twin, before=model)
    if like.is_meta:
        twin.to(like.dtype)
    else:
        load_state(twin, fitted, model.spec.name, like.dtype, like.device)
    for name, tensor in twin.state_dict(keep_vars=True).items():
        tensor.requires_grad_(current[name].requires_grad)
    put_tensors(twin, {name: current[name] for name in report.names("kept")})


def prune(model: Any, indices: Indices, prune_norm: bool, prune_head: bool) -> list[int]:
    """Cuts off the parts (or layers, where levels are layers) behind the last level wanted, and the head."""
    levels = chosen_levels(indices, model.num_levels)
    if model.levels_are_layers:
        count = 0
        for place, stage in enumerate(model.stages):
            if count > max(levels):
                model.stages = model.stages[:place]
                break
            stage.layers = stage.layers[: max(levels) + 1 - count]
            count += len(stage.layers)
    else:
        last, names = model.level_names()[max(levels)], [name for name, _ in model.parts()]
        remaining = names[: names.index(last) + 1]
        model.stages = model.stages[: sum(name.startswith("stages.") for name in remaining)]
        for name in names[len(remaining) :]:
            if name.startswith("stem."):
                delattr(model.stem, name.removeprefix("stem."))
    if model.spec.graph is not None:
        model.put_graph(None)
    if prune_head:
        model.head = None
    elif prune_norm and getattr(model.head, "norm", None) is not None:
        model.head.norm = None
    return levels


def _like(model: nn.Module) -> Tensor:
    """A parameter that shows on which device and in which dtype the model lives."""
    return next(model.parameters())


def _names(model: nn.Module | None) -> set[str]:
    return set(model.state_dict()) if model is not None else set()


def _depths(model: Any) -> list[int]:
    return [len(stage.layers) for stage in model.stages]


def _refuse_changed(what: str, model: Any, same: bool) -> None:
    if not same:
        found = "a model that was deployed, pruned or changed by hand"
        raise InputError(what, Problem(model.spec.name, "the layers of its spec", found, next="do it before that"))


def _take_over(head: nn.Module, old: nn.Module | None, like: Tensor, init: Any) -> None:
    """Values for the new head, and the old one's tensors below its last layers."""
    head.to_empty(device=like.device)
    if not like.is_meta:
        initialise(head, init)
    head.to(like.dtype)
    before = old.state_dict(keep_vars=True) if old is not None else {}
    fits = {name for name, tensor in head.state_dict().items() if name in before and before[name].shape == tensor.shape}
    put_tensors(head, {name: before[name] for name in fits if not name.startswith("classifier")})
