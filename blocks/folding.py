"""From train form to deploy form: per-channel affine maps (batch norms in eval, layer scales) folded into their neighbours.

A module takes part by any of these methods, all optional:
- `fuse() -> Module | None`: its own simplification; returns what replaces it, None for nothing at all;
- `as_affine() -> (scale, shift) | None`: it is y = scale * x + shift per channel, with both of shape (C,);
- `absorb_output(scale, shift) -> bool`: takes such a map that follows it into its own weights;
- `absorb_input(scale, shift) -> bool`: takes such a map that precedes it (exact only without zero padding);
- `absorb_skip(scale, skip) -> bool`: becomes skip * x + scale * f(x) per channel, taking in the connection around it.
`absorb_*` answers False, and changes nothing, when it cannot.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def fuse(model: nn.Module) -> nn.Module:
    """The deploy form: a copy in eval mode, folded in float64 and returned in the model's own dtypes. Equal up to rounding."""
    fused = _fuse_each(copy.deepcopy(model).eval()) or nn.Identity()
    for parameter in fused.parameters():
        parameter.requires_grad_(False)
    return fused


def _fuse_each(module: nn.Module) -> nn.Module | None:
    """Fuses the outermost modules that can be, one after the other: all at once in float64 would take as much as two more models."""
    if hasattr(module, "fuse"):
        return _fuse_in_float64(module)
    for name, child in list(module.named_children()):
        replacement = _fuse_each(child)
        if replacement is not child:
            setattr(module, name, replacement)
    return module


def _fuse_in_float64(module: nn.Module) -> nn.Module | None:
    """What is new, or made of several, has the widest dtype that there was."""
    before = {name: tensor.dtype for name, tensor in _floating(module)}
    fused = fuse_inside(module.double())
    if fused is not None and before:
        widest = functools.reduce(torch.promote_types, before.values())
        for name, tensor in _floating(fused):
            tensor.data = tensor.data.to(before.get(name, widest))
    return fused


def _floating(module: nn.Module) -> list[tuple[str, Tensor]]:
    named = [*module.named_parameters(), *module.named_buffers()]
    return [(name, tensor) for name, tensor in named if tensor.is_floating_point()]


def fuse_inside(module: nn.Module) -> nn.Module | None:
    """Fuses `module` from the inside out; returns what replaces it."""
    for name, child in list(module.named_children()):
        replacement = fuse_inside(child)
        if replacement is not child:
            setattr(module, name, replacement)  # a Module or None: both keep the attribute
    method: Any = getattr(module, "fuse", None)
    result: nn.Module | None = method() if method is not None else module
    return result


def fold_neighbours(owner: nn.Module, names: Sequence[str]) -> None:
    """Folds affine maps among the children `names` of `owner`, which run one after the other; folded ones become None."""
    for name in names:
        part: Any = owner._modules.get(name)
        affine = part.as_affine() if part is not None and hasattr(part, "as_affine") else None
        if affine is None:
            continue
        before, after = _neighbours(owner, names, name)
        if (before is not None and _absorbs(before, "absorb_output", affine)) or (
            after is not None and _absorbs(after, "absorb_input", affine)
        ):
            owner._modules[name] = None
    for name in names:
        if owner._modules.get(name) is None:
            owner._modules.pop(name, None)


def _neighbours(owner: nn.Module, names: Sequence[str], name: str) -> tuple[nn.Module | None, nn.Module | None]:
    present = [other for other in names if owner._modules.get(other) is not None]
    at = present.index(name)
    before = owner._modules[present[at - 1]] if at > 0 else None
    after = owner._modules[present[at + 1]] if at + 1 < len(present) else None
    return before, after


def _absorbs(part: nn.Module, method: str, affine: tuple[Tensor, Tensor]) -> bool:
    absorb = getattr(part, method, None)
    return bool(absorb is not None and absorb(*affine))


@torch.no_grad()
def scale_output(layer: nn.Linear | nn.modules.conv._ConvNd, scale: Tensor, shift: Tensor) -> None:
    """layer <- scale * layer(x) + shift, per output channel; adds a bias where there was none."""
    weight = layer.weight
    layer.weight = nn.Parameter(weight * scale.to(weight).view(-1, *[1] * (weight.ndim - 1)), requires_grad=False)
    bias = shift if layer.bias is None else layer.bias * scale + shift
    layer.bias = nn.Parameter(bias.to(weight).expand(weight.shape[0]).clone(), requires_grad=False)


@torch.no_grad()
def scale_input(layer: nn.Linear, scale: Tensor, shift: Tensor) -> None:
    """layer <- layer(scale * x + shift), for a linear map of the channels."""
    weight = layer.weight
    bias = weight @ shift.to(weight).expand(weight.shape[1])
    layer.weight = nn.Parameter(weight * scale.to(weight), requires_grad=False)
    layer.bias = nn.Parameter(bias if layer.bias is None else layer.bias + bias, requires_grad=False)


def absorb_skip(wiring: nn.Module, scale: Tensor | float, skip: Tensor | float) -> nn.Module:
    """What replaces y = skip * x + scale * f(x): the only part of `wiring`, where it takes in the connection; else `wiring`."""
    parts = list(wiring._modules.values())
    absorb = getattr(parts[0], "absorb_skip", None) if len(parts) == 1 else None
    return parts[0] if absorb is not None and absorb(scale, skip) and parts[0] is not None else wiring


def norm_affine(norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """(scale, shift) of a batch norm in eval mode."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics is no fixed map")
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias
