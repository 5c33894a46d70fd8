"""How a model begins: each block's own initialisation, and the spec's law for convolutions and linear layers."""

from __future__ import annotations

import math

import msgspec
import torch
from torch import nn

from blocks.first_values import made_again, orphans
from blocks.registry.errors import BlockError, Problem
from zoo.specs.check import Init

WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)
CUT = 2.0
"""Where papers cut their normal distributions, in absolute terms."""
FAR = 9.0
"""Deviations beyond which a float32 normal never falls: one value in 10^18."""


def materialise(model: nn.Module, init: Init, device: torch.device | str | None = None) -> None:
    """Gives a meta model memory and its initial values, in place. Draws from torch's global generator."""
    model.to_empty(device=device or "cpu")
    initialise(model, init)


@torch.no_grad()
def initialise(module: nn.Module, init: Init) -> None:
    """Children before parents, so that a block has the last word on what it holds (a mixer on its step sizes)."""
    rest = msgspec.structs.replace(init, head_std=0.0)
    for name, child in module.named_children():
        head = name == "head" and init.head_std > 0
        initialise(child, Init("trunc_normal", init.head_std) if head else rest)
    if isinstance(module, WEIGHTED) and _has_law(module, init):
        _weights(module, init)
    elif callable(reset := getattr(module, "reset_parameters", None)):
        reset()
    elif hasattr(module, "block_id"):
        _begin_anew(module)
    if callable(reset := getattr(module, "reset_buffers", None)):
        reset()


def _begin_anew(block: nn.Module) -> None:
    """First values for what a block without `reset_parameters` owns itself, or in modules that have no such method either.

    They are those of its constructor, run once more. Raises BlockError when that cannot be had.
    """
    parts = orphans(block)
    if not parts:
        return
    twin = made_again(block)
    if twin is None:
        names = [
            f"{path}.{name}".lstrip(".") for path, part in parts.items() for name in (*part._parameters, *part._buffers)
        ]
        problem = Problem(
            "", "first values for its own " + ", ".join(f"`{name}`" for name in names), "no method that gives them",
            next="give the block a `reset_parameters(self)`, and call it at the end of `__init__`",
        )  # fmt: skip
        raise BlockError(f"block `{block.block_id}`", problem)
    for path, part in parts.items():
        source = twin.get_submodule(path)
        for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            tensor.copy_(getattr(source, name))


def _has_law(layer: nn.Linear | nn.modules.conv._ConvNd, init: Init) -> bool:
    """Whether the spec decides, rather than the layer's `reset_parameters`: not where a subclass has one of its own.

    `fan_out` is a law for convolutions (He et al., arXiv:1502.01852, eq. 14); linear layers then begin as torch's do. A law of linear
    layers alone leaves convolutions so.
    """
    if type(layer).reset_parameters not in (nn.Linear.reset_parameters, nn.modules.conv._ConvNd.reset_parameters):
        return False
    linear = isinstance(layer, nn.Linear)
    return init.weight != "torch" and not (init.weight == "fan_out" if linear else init.layers == "linear")


def _weights(layer: nn.Linear | nn.modules.conv._ConvNd, init: Init) -> None:
    if init.weight == "trunc_normal" and init.std * FAR > CUT:
        nn.init.trunc_normal_(layer.weight, std=init.std, a=-CUT, b=CUT)
    elif (
        init.weight == "trunc_normal" or init.weight == "normal"
    ):  # cut where nothing is ever drawn: a normal, in a fifth of the time
        nn.init.normal_(layer.weight, std=init.std)
    elif init.weight == "xavier_uniform":
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.normal_(layer.weight, std=math.sqrt(2 / _fan_out(layer)))
    if layer.bias is None:
        return
    if init.bias == "torch":
        reach = 1 / math.sqrt(layer.weight[0].numel())
        nn.init.uniform_(layer.bias, -reach, reach)
    else:
        nn.init.zeros_(layer.bias)


def _fan_out(layer: nn.Linear | nn.modules.conv._ConvNd) -> int:
    """Outputs that one input reaches: out * k * k / groups."""
    out, *_ = layer.weight.shape
    kernel = math.prod(layer.weight.shape[2:])
    return out * kernel // getattr(layer, "groups", 1)
