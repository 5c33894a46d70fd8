"""Large models with few layers: the blocks and widths are their own."""

from __future__ import annotations

import functools

import torch
from torch import nn

import zoo
from zoo import catalog
from zoo.build.builder import build
from zoo.weights.load import load_state


@functools.cache
def thin(name: str, most_params: int, fewest: int = 1) -> zoo.Spec:
    """The model's spec; of one with more parameters, with the fewest layers in each stage, from `fewest` on, that its patterns allow."""
    spec = zoo.spec(name)
    if catalog.entry(name).params < most_params:
        return spec
    for depth in range(fewest, max(len(stage.layers) for stage in spec.stages)):
        try:
            found = zoo.spec(name, {"depths": [min(depth, len(stage.layers)) for stage in spec.stages]})
            build(found)
        except zoo.SpecError:
            continue
        return found
    return spec


def with_zeros(spec: zoo.Spec) -> nn.Module:
    """The net with parameters of zero, which take no memory until somebody writes to them."""
    net = build(spec)
    load_state(net, {key: torch.zeros_like(value, device="cpu") for key, value in net.state_dict().items()}, spec.name)
    return net
