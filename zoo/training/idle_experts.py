"""Experts that get nothing to do in one of several processes: the others wait for their gradients, which are zero then."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from blocks.moe.moe import Moe


def attend(model: nn.Module) -> None:
    """Every mixture of experts answers y + 0 * sum of its parameters in training, so that each of them has a gradient."""
    for module in model.modules():
        if isinstance(module, Moe):
            module.register_forward_hook(_with_all)


def _with_all(module: nn.Module, inputs: Any, y: Tensor) -> Tensor:
    if not module.training:
        return y
    zeros = [0 * parameter.sum() for parameter in module.parameters() if parameter.requires_grad]
    return y + sum(zeros[1:], zeros[0]).to(y.dtype) if zeros else y
