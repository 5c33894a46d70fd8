"""Parameters of a module, counted."""

from __future__ import annotations

from torch import nn


def count_params(module: nn.Module, trainable: bool = False) -> int:
    """How many numbers its parameters hold, one that stands in several places once; only those that are trained, if `trainable`."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trainable)
