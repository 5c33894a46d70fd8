"""Low-rank adapters (arXiv:2106.09685): W + alpha / rank B A in the place of a matrix W that stays as it is.

They are parametrisations of torch, so that a block that reads `weight` sees the sum, and `merge` leaves plain matrices behind.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zoo.errors import InputError, Problem


class LowRank(nn.Module):
    """W (out, in, ...) -> W + scale B A, with A (rank, in ...) drawn as a linear map is and B (out, rank) of zeros."""

    def __init__(self, like: Tensor, rank: int, scale: float):
        super().__init__()
        self.scale = scale
        self.a = nn.Parameter(torch.empty(rank, like[0].numel(), dtype=like.dtype, device=like.device))
        self.b = nn.Parameter(torch.zeros(like.shape[0], rank, dtype=like.dtype, device=like.device))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.scale * (self.b @ self.a)).view_as(weight)


def adapt(model: nn.Module, rank: int, alpha: float) -> int:
    """Freezes all but the head and gives each linear map before it an adapter; returns how many there are.

    Linear maps are parameters `weight` of two axes, and kernels of 1 x 1 that are no depthwise ones. Raises InputError where there is none.
    """
    places = [
        module
        for path, module in model.named_modules()
        if not path.startswith("head") and _is_linear(module) and not parametrize.is_parametrized(module, "weight")
    ]
    if not places:
        raise InputError("recipe", Problem("model.lora", "a model with linear maps", "none before its head"))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head"))
    for module in places:
        parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank, alpha / rank))  # type: ignore[arg-type]
    return len(places)


def merge(model: nn.Module) -> None:
    """The sums in the place of matrices and adapters, under the names that the matrices had.

    torch's own removal takes the property from the class of a module, which copies of the module share.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            whole = module.weight.detach().clone()  # type: ignore[operator, union-attr]
            del module._modules["parametrizations"]
            module.__class__ = type(module).__bases__[0]
            module.weight = nn.Parameter(whole)


def _is_linear(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    if weight is None or weight.ndim < 2 or isinstance(module, nn.Embedding):
        return False
    return weight.ndim == 2 or (weight[0, 0].numel() == 1 and weight.shape[1] > 1)
