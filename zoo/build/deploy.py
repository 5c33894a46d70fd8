"""The deploy form of a model, and when its layers are packed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from blocks.folding import fuse
from blocks.packing import pack, unpacked
from zoo.errors import InputError, Problem, nearest
from zoo.specs.model import description_of

FORMS = ("train", "deploy")


def check_form(form: str, subject: str = "create") -> None:
    """Raises InputError for what is no form of a model."""
    if form not in FORMS:
        raise InputError(subject, Problem("form", "`train` or `deploy`", f"`{form}`", nearest(form, FORMS)))


def deploy(model: nn.Module) -> Any:
    """The deploy form of a model: a copy with branches merged and norms folded, in float64, equal up to rounding.

    On a CPU its layers keep their weights in the layout of the kernels and compute activations inside them, which takes memory
    for a second copy of the weights at the first call. An input of another shape takes the ordinary way, and from its second call
    in a row its own layout: the two agree up to rounding.
    """
    return packed(fused(model))


def fused(model: nn.Module) -> Any:
    """The deploy form with plain layers, as it is exported and compiled."""
    described = description_of(model)
    if described is not None and described.factory is not None:
        return described.factory.deploy(model)
    return fuse(unpacked(model))


def packed(net: nn.Module) -> Any:
    """A deploy form in the memory layout of its device's kernels; as it is on meta."""
    like = next(net.parameters(), None)
    if (
        like is None or like.is_meta or any(parameter.ndim > 4 for parameter in net.parameters())
    ):  # kernels of clips have no such layout
        return net
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return pack(net) if packs(like.device.type, like.dtype) else net


def packs(device_type: str, dtype: torch.dtype) -> bool:
    """Whether the layers of a deploy form keep their weights in the layout of the kernels: on a CPU, in float32."""
    return device_type == "cpu" and dtype == torch.float32
