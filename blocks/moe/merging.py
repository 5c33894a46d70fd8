"""Experts merged in parameter space: for each sequence one expert, whose parameters are an average of all. Paper: arXiv:2306.03745."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from blocks.moe.dispatch import RepeatedExperts


def run_merged(experts: nn.Module, weights: Tensor, x: Tensor) -> Tensor:
    """y_b = f(x_b; sum_e weights_{b,e} theta_e): (B, L, C) -> (B, L, C), `weights` (B, E)."""
    B, L, C = x.shape
    if not isinstance(experts, RepeatedExperts):  # a block that holds all: B merged experts in place of its own E
        merged = {name: _averages(weights, packed) for name, packed in experts.named_parameters()}
        y: Tensor = functional_call(experts, merged, (x.reshape(B * L, C).clone(), [L] * B))
        return y.view(B, L, C)
    each = [dict(expert.named_parameters()) for expert in experts]
    merged = {name: _averages(weights, torch.stack([own[name] for own in each])) for name in each[0]}

    def one(parameters: dict[str, Tensor], sequence: Tensor) -> Tensor:
        out: Any = functional_call(experts[0], parameters, (sequence.unsqueeze(0),))
        return out.squeeze(0)

    return torch.vmap(one)(merged, x)


def _averages(weights: Tensor, packed: Tensor) -> Tensor:
    """(B, E) and (E, …) -> (B, …)."""
    return torch.tensordot(weights.to(packed.dtype), packed, 1)
