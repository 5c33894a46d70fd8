"""Experts merged in parameter space: for each sequence one expert, whose parameters are an average of all. Paper: arXiv:2306.03745."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from blocks.moe.dispatch import RepeatedExperts

Parameters = dict[str, Tensor]


def run_merged(experts: nn.Module, weights: Tensor, x: Tensor) -> Tensor:
    """y_b = f(x_b; sum_e weights_{b,e} theta_e): (B, L, C) -> (B, L, C), `weights` (B, E). A trace of torch.jit holds for its own batch."""

    def one(parameters: Parameters, tokens: Tensor) -> Tensor:
        if isinstance(experts, RepeatedExperts):
            out: Any = _called(next(experts.children()), parameters, tokens.unsqueeze(0))
            return out.squeeze(0)
        single = {name: value.unsqueeze(0) for name, value in parameters.items()}
        y: Tensor = _called(experts, single, tokens, [tokens.shape[0]])
        return y

    merged = {name: torch.tensordot(weights.to(all_.dtype), all_, 1) for name, all_ in _stacked(experts).items()}
    if torch.compiler.is_exporting() or not x.numel():
        return torch.vmap(one)(merged, x)
    return torch.stack([one({name: value[b] for name, value in merged.items()}, tokens) for b, tokens in enumerate(x)])


def _called(module: nn.Module, parameters: Parameters, *inputs: Any) -> Any:
    """What a module gives with other parameters than its own; under torch.jit, where `functional_call` refuses, they take the places of those."""
    if not torch.jit.is_tracing():
        return functional_call(module, parameters, inputs)
    own = dict(module.named_parameters())
    try:
        _put(module, parameters)
        return module(*inputs)
    finally:
        _put(module, own)


def _put(module: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    for name, value in parameters.items():
        path, _, last = name.rpartition(".")
        module.get_submodule(path)._parameters[last] = value  # type: ignore[assignment]  # a tensor that is no parameter, too


def _stacked(experts: nn.Module) -> Parameters:
    """Name -> (E, …): the parameters of all experts."""
    if not isinstance(experts, RepeatedExperts):
        return dict(experts.named_parameters())
    each = [dict(expert.named_parameters()) for expert in experts.children()]
    return {name: torch.stack([parameters[name] for parameters in each]) for name in each[0]}
