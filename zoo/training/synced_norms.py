"""Batch norms whose moments are those of all processes, on any device: torch's own are for accelerators alone.

mean = sum_p sum x / N and var = sum_p sum x^2 / N - mean^2 over all processes p, with gradients through both sums.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from blocks.primitives.norms import BatchNorm


def synchronise(model: nn.Module) -> None:
    """Each batch norm of the zoo takes the moments of all processes in training; evaluation stays as it is."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.forward = partial(_forward, module)  # type: ignore[method-assign]


def _forward(norm: BatchNorm, x: Tensor) -> Tensor:
    if not norm.training or not (dist.is_available() and dist.is_initialized()):
        return BatchNorm.forward(norm, x)
    from torch.distributed.nn.functional import all_reduce

    axes = [0, 2, 3] if x.ndim == 4 else [0, 1] if x.ndim == 3 else [0]
    form = [1, -1, 1, 1] if x.ndim == 4 else [-1]
    wide = x.to(norm.running_mean.dtype)
    count = torch.tensor([float(x.numel() // norm.dim)], dtype=wide.dtype, device=x.device)
    sums = all_reduce(torch.cat([wide.sum(axes), wide.square().sum(axes), count]))
    total = sums[-1]
    mean, square = sums[:-1].view(2, norm.dim) / total
    var = (square - mean.square()).clamp_min(0)
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * (total / (total - 1)), norm.momentum)
    scale = norm.weight * (var + norm.eps).rsqrt()
    shift = norm.bias - mean * scale
    return (wide * scale.view(form) + shift.view(form)).to(x.dtype)
