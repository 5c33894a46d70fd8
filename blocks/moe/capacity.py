"""Capacity: an expert takes only so many tokens of a sequence; the others of its choices are dropped, and counted.

B sequences of L tokens, k choices of each; E is here the number of experts.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from blocks.context import Context
from blocks.moe.routing import Routing, as_sequences, shape_of
from blocks.moe.scoring import LinearRouter, share
from blocks.ops.masks import token_mask


def capacity_of(length: int, k: float, num_experts: int, factor: float) -> int:
    """Tokens of a sequence that one expert takes: ceil(factor * L * k / E), at least 1 and at most L."""
    return max(1, min(length, math.ceil(factor * length * k / num_experts)))


def room_for(length: Any, k: float, num_experts: int, factor: float) -> Any:
    """`capacity_of` a length that in a graph may be free: of a tensor a tensor, of a symbol a symbol."""
    if isinstance(length, int):
        return capacity_of(length, k, num_experts, factor)
    if isinstance(length, Tensor):
        wanted = (factor * length.double() * k / num_experts).ceil().long()
        return torch.maximum(torch.minimum(wanted, length), torch.ones_like(wanted))
    return torch.sym_max(1, torch.sym_min(length, math.ceil(factor * length * k / num_experts)))


def capacities(mask: Tensor, k: float, num_experts: int, factor: float) -> Tensor:
    """(B, 1) the `capacity_of` each sequence for its real tokens, `mask` (B, L) being True there."""
    of_length = [capacity_of(length, k, num_experts, factor) for length in range(mask.shape[1] + 1)]
    return torch.tensor(of_length, device=mask.device)[mask.sum(1, keepdim=True)]


def places(experts: Tensor) -> Tensor:
    """(B, R) experts in the order of priority -> (B, R) how many of the same expert stand before each."""
    order = experts.argsort(dim=-1, stable=True)
    grouped = experts.gather(-1, order)
    rank = torch.arange(experts.shape[-1], device=experts.device).expand_as(experts)
    return torch.empty_like(experts).scatter(-1, order, rank - torch.searchsorted(grouped, grouped))


def within_capacity(indices: Tensor, order: Tensor, capacity: int | Tensor) -> Tensor:
    """`indices` (B, R) with -1 in place of choices beyond an expert's `capacity`, one number or (B, 1).

    `order` (B, R): who is served first.
    """
    place = places(indices.gather(-1, order))
    return torch.where(torch.zeros_like(place).scatter(-1, order, place) < capacity, indices, -1)


class CapacityRouter(LinearRouter):
    """Base of the routers that choose the k best experts of a token, as far as there is room.

    A token of which no choice is left passes through no expert; in a residual branch it stays as it is. Padding (`ctx.mask`)
    neither takes room nor makes any: L is the number of real tokens of a sequence. `ctx.reports` gets dropped, the number
    of choices without room, beside load and importance; both losses count the choices before any was dropped. Raises
    ValueError for packed sequences.
    """

    capacity: float
    renormalise: bool

    def rows_range(self, length: int) -> tuple[int, int]:
        """Fewest: all tokens want the same k experts. Most: the choices are spread, as far as there is room."""
        room = capacity_of(length, self.k, self.num_experts, self.capacity)
        return int(self.k) * room, min(int(self.k) * length, self.num_experts * room)

    def order(self, weights: Tensor) -> Tensor:
        """(B, L, k) -> (B, L * k), the positions of the flattened choices in the order of priority."""
        raise NotImplementedError  # each router has its own order; this class is their common part

    def route(self, x: Tensor, ctx: Context | None) -> Routing:
        """(B, C, H, W) or (B, L, C) -> Routing."""
        logits = self.logits(x)
        scores = logits.softmax(-1)
        weights, indices = scores.topk(int(self.k), -1)
        weights = share(weights) if self.renormalise else weights
        chosen = indices.view(*shape_of(x), indices.shape[-1])
        mask, rule = token_mask(as_sequences(x), ctx), (self.k, self.num_experts, self.capacity)
        room = room_for(chosen.shape[1], *rule)
        if mask is not None:
            chosen, room = chosen.masked_fill(~mask.bool().unsqueeze(-1), -1), capacities(mask, *rule)
        served = within_capacity(chosen.flatten(1), self.order(weights.detach().view_as(chosen)), room)
        self.tell(ctx, logits, scores, chosen)
        self.report(ctx, dropped=(chosen.flatten(1) != served).sum())
        return Routing(weights.to(x.dtype), served.view_as(indices))
