"""Changing a model that is there: another classifier, another input size, fewer layers. Weights stay wherever they can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.build.builder import build
from zoo.build.init import initialise
from zoo.build.levels import Indices, chosen_levels
from zoo.errors import InputError, Problem
from zoo.specs.resolve import with_values


def reset_classifier(model: Any, num_classes: int, global_pool: str | None = None) -> None:
    """Builds the head for `num_classes`; what it shares with the old one keeps its values, the rest is drawn."""
    values: dict[str, Any] = {"num_classes": num_classes}
    if global_pool:
        values["head"] = {"pool": global_pool}
    spec = with_values(model.spec, **values)
    head = None if global_pool == "" else build(spec).head
    if head is not None:
        _take_over(head, model.head, _like(model), spec.init)
        head.train(model.training)
    model.spec, model.head = spec, head
    model.out_indices = None


def set_input_size(model: Any, img_size: int | Sequence[int]) -> None:
    """Builds the model for images of `img_size` around its own tensors; what depends on the size is resampled.

    Raises InputError for a model that is no longer what its spec says (deployed or pruned), WeightsError for a tensor
    that cannot follow to another size; nothing is changed then.
    """
    from zoo.weights.adapt import adapt
    from zoo.weights.load import expected_header, load_state

    size = img_size if isinstance(img_size, int) else list(img_size)
    spec = with_values(model.spec, input={"size": size})
    twin = build(spec)
    twin.head = twin.head if model.head is not None else None
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if tensors.keys() != twin.state_dict().keys():
        found = "a model that was deployed, pruned or changed by hand"
        raise InputError("set_input_size", Problem(model.spec.name, "the layers of its spec", found))
    fitted, _ = adapt(tensors, expected_header(twin), subject=model.spec.name, model=twin)
    like, trained = _like(model), {name: p.requires_grad for name, p in model.named_parameters()}
    load_state(twin, fitted, model.spec.name, device=like.device)
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(trained[name])
    twin.train(model.training)
    for stage, old in zip(twin.stages, model.stages, strict=True):
        stage.grad_checkpointing = old.grad_checkpointing
    model.spec, model.stem, model.stages, model.head = spec, twin.stem, twin.stages, twin.head


def prune(model: Any, indices: Indices, prune_norm: bool, prune_head: bool) -> list[int]:
    """Cuts off the stages (or layers of the only stage) behind the last level wanted, and the head."""
    levels = chosen_levels(indices, model.num_levels)
    if model.levels_are_layers:
        model.stages[0].layers = model.stages[0].layers[: max(levels) + 1]
    else:
        model.stages = model.stages[: max(levels) + 1]
    if prune_head:
        model.head = None
    elif prune_norm and getattr(model.head, "norm", None) is not None:
        model.head.norm = None
    return levels


def _like(model: nn.Module) -> Tensor:
    """A parameter that shows on which device and in which dtype the model lives."""
    return next(model.parameters())


def _take_over(head: nn.Module, old: nn.Module | None, like: Tensor, init: Any) -> None:
    head.to_empty(device=like.device)
    if not like.is_meta:
        initialise(head, init)
    head.to(like.dtype)
    before = old.state_dict() if old is not None else {}
    with torch.no_grad():
        for name, tensor in head.state_dict().items():
            if name in before and before[name].shape == tensor.shape and not name.startswith("classifier."):
                tensor.copy_(before[name])
