"""The deploy form of a timm model: its own re-parameterisation, then batch norms folded into the layers before them.

timm's models are plain Python, so which norm follows which layer is observed: in a forward pass on meta, a norm that is handed the very
tensor that a convolution or linear layer gave can be folded into it. Whether the model also uses that tensor elsewhere cannot be seen;
so the folded model is run beside the original once, and is only given out when they agree.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn

from zoo._timm import import_timm

log = logging.getLogger("zoo")

TOLERANCE = 1e-5
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def deploy(model: nn.Module) -> nn.Module:
    """A copy in eval mode that computes the same with fewer operations; parameters need no gradient."""
    timm = import_timm()
    net: nn.Module = timm.utils.model.reparameterize_model(copy.deepcopy(model).eval()).eval()
    folded = _folded(net, model)
    for parameter in folded.parameters():
        parameter.requires_grad_(False)
    return folded


def _folded(net: nn.Module, model: Any) -> nn.Module:
    pairs = observed_pairs(net, _input(model, "meta"))
    if not pairs:
        return net
    folded = copy.deepcopy(net)
    for layer, norm in pairs:
        fold(folded, layer, norm)
    like = next(net.parameters())
    if like.is_meta:  # counted, never run
        return folded
    x = _input(model, like.device).to(like.dtype)
    with torch.no_grad():
        expected, found = _first(model.eval()(x)), _first(folded(x))
    error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    if error <= TOLERANCE:
        return folded
    log.warning("%s: folded norms change its output by %.1e; they stay as they are", model.spec.name, error)
    return net


def observed_pairs(net: nn.Module, x: Tensor) -> list[tuple[str, str]]:
    """(layer, norm) by path, where the norm's input is the layer's output and each runs once in a pass."""
    twin = copy.deepcopy(net).to("meta").eval()
    names = {module: path for path, module in twin.named_modules()}
    given: dict[int, str] = {}
    held: list[Tensor] = []  # an id means a tensor as long as that lives
    pairs: list[tuple[str, str]] = []
    calls: dict[str, int] = {}

    def after(module: nn.Module, _: Any, output: Tensor) -> None:
        calls[names[module]] = calls.get(names[module], 0) + 1
        given[id(output)] = names[module]
        held.append(output)

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[names[module]] = calls.get(names[module], 0) + 1
        layer = given.get(id(inputs[0]))
        if layer is not None:
            pairs.append((layer, names[module]))

    for module in twin.modules():
        if isinstance(module, LAYERS):
            module.register_forward_hook(after)
        elif isinstance(module, NORMS) and module.track_running_stats:
            module.register_forward_pre_hook(before)
    with torch.no_grad():
        twin(x)
    layers = [layer for layer, _ in pairs]
    return [(layer, norm) for layer, norm in pairs if calls[layer] == calls[norm] == layers.count(layer) == 1]


@torch.no_grad()
def fold(net: nn.Module, layer_path: str, norm_path: str) -> None:
    """y = norm(W x + b) becomes one layer, in float64; what a norm of timm does besides (drop, activation) stays."""
    layer: Any = net.get_submodule(layer_path)
    norm: Any = net.get_submodule(norm_path)
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    shift = shift if norm.bias is None else shift + norm.bias.double()
    bias = shift if layer.bias is None else shift + layer.bias.double() * scale
    weight = layer.weight.double() * scale.view(-1, *[1] * (layer.weight.ndim - 1))
    layer.weight = nn.Parameter(weight.to(layer.weight.dtype))
    layer.bias = nn.Parameter(bias.to(layer.weight.dtype))
    rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
    rest = [part for part in rest if not isinstance(part, nn.Identity)]
    owner, _, name = norm_path.rpartition(".")
    setattr(
        net.get_submodule(owner), name, nn.Sequential(*rest) if len(rest) > 1 else rest[0] if rest else nn.Identity()
    )


def _input(model: Any, device: Any) -> Tensor:
    form = model.spec.input
    size = (form.size, form.size) if isinstance(form.size, int) else tuple(form.size)
    return torch.rand((1, form.channels, *size), generator=None, device=device)


def _first(output: Any) -> Tensor:
    tensor: Tensor = output if isinstance(output, Tensor) else output[0]
    return tensor
