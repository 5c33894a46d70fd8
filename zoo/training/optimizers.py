"""Optimisers by name: timm's, with the parameter groups of the zoo."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from zoo._timm import import_timm
from zoo.build.groups import param_groups
from zoo.errors import InputError, Problem, nearest
from zoo.training.recipe import Optimizer

FUSED = ("adam", "adamw")
"""Optimisers of torch that take a step of all parameters in one call, on a CPU, too, where they would take a dozen for each tensor."""


def check_optimizer(name: str) -> None:
    """Raises InputError for a name that timm does not know."""
    import_timm()
    from timm.optim import list_optimizers

    known: Any = list_optimizers()
    if name not in known:
        raise InputError("recipe", Problem("optimizer.name", "an optimiser of timm", f"`{name}`", nearest(name, known)))


def optimizer_of(net: nn.Module, beside: nn.Module | None, recipe: Optimizer) -> torch.optim.Optimizer:
    """Of what learns of the net, and of a map `beside` it that stands in no model and does not decay."""
    import_timm()
    from timm.optim import create_optimizer_v2

    decay = recipe.layer_decay if recipe.layer_decay < 1 else None
    groups = param_groups(net, recipe.weight_decay, decay, recipe.lr)
    if beside is not None:
        groups.append({"params": list(beside.parameters()), "lr": recipe.lr, "weight_decay": 0.0})
    parameters = [parameter for group in groups for parameter in group["params"]]
    on_cpu = all(parameter.device.type == "cpu" and parameter.is_floating_point() for parameter in parameters)
    how: dict[str, Any] = (
        {"fused": True} if recipe.name in FUSED and on_cpu and not torch.accelerator.is_available() else {}
    )
    return create_optimizer_v2(groups, recipe.name, lr=recipe.lr, weight_decay=recipe.weight_decay, **how)  # type: ignore[no-any-return]
