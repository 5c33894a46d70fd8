"""Autocast ends at an op, whose dtypes follow from its arguments; the convolution takes those that torch's own would take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NARROWED = (torch.float32, torch.bfloat16, torch.float16)
"""What autocast turns into its own dtype: not float64, and no integers."""


def device_type(*arguments: Any) -> str:
    """The device type of the first tensor among them, or in a tuple among them; "meta" where there is none."""
    for argument in arguments:
        for value in argument if isinstance(argument, tuple) else (argument,):
            if isinstance(value, Tensor):
                return value.device.type
    return "meta"


def autocasts(device: str) -> bool:
    """Whether autocast is on for tensors of this type of device; torch raises where there is none for it, as for meta."""
    return device != "meta" and torch.is_autocast_enabled(device)


def as_autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors as autocast hands them to torch's own convolutions: in its dtype, but for float64 and integers."""
    device = device_type(*tensors)
    if not autocasts(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [tensor.to(dtype) if tensor is not None and tensor.dtype in NARROWED else tensor for tensor in tensors]
