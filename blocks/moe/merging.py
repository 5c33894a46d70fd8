"""Experts merged in parameter space: for each sequence one expert, whose parameters are an average of all. Paper: arXiv:2306.03745."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from blocks.moe.dispatch import RepeatedExperts, for_any_input
from blocks.registry.errors import BlockError, Problem

Parameters = dict[str, Tensor]


def run_merged(experts: nn.Module, weights: Tensor, x: Tensor) -> Tensor:
    """y_b = f(x_b; sum_e weights_{b,e} theta_e): (B, L, C) -> (B, L, C), `weights` (B, E). torch.jit cannot record it: BlockError."""
    if torch.jit.is_tracing():
        raise BlockError(
            "merged experts",
            Problem(
                "torch.jit.trace",
                "modules whose parameters are their own",
                "an expert that runs with an average of parameters, which torch.jit does not record",
                next="use torch.export or `zoo export --to torch-export`",
            ),
        )

    def one(parameters: Parameters, tokens: Tensor) -> Tensor:
        if isinstance(experts, RepeatedExperts):
            out: Any = functional_call(next(experts.children()), parameters, (tokens.unsqueeze(0),))
            return out.squeeze(0)
        single = {name: value.unsqueeze(0) for name, value in parameters.items()}
        y: Tensor = functional_call(experts, single, (tokens, [tokens.shape[0]]))
        return y

    merged = {name: torch.tensordot(weights.to(all_.dtype), all_, 1) for name, all_ in _stacked(experts).items()}
    if for_any_input() or not x.numel():
        return torch.vmap(one)(merged, x)
    return torch.stack([one({name: value[b] for name, value in merged.items()}, tokens) for b, tokens in enumerate(x)])


def _stacked(experts: nn.Module) -> Parameters:
    """Name -> (E, …): the parameters of all experts."""
    if not isinstance(experts, RepeatedExperts):
        return dict(experts.named_parameters())
    each = [dict(expert.named_parameters()) for expert in experts.children()]
    return {name: torch.stack([parameters[name] for parameters in each]) for name in each[0]}
