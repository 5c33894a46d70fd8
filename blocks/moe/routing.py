"""What a router answers, and how experts are joined by it: rows sent to experts, slots mixed of tokens, or experts merged.

A router is a block of kind `router` with the attributes `num_experts` and `k` (how many of them a token meets; the mean,
where it varies). Its `forward(x, ctx)` gives one of the three answers below, each with
`mix(x, experts, num_experts, ctx)`: (B, L, C) -> (B, L, C). `experts(rows, counts)` runs rows (R, C) sorted by expert
through the experts, `counts` (a list) of them each. A router whose mixing multiplies matrices says how much in
`mixing_macs(shape, expert_params)`; one that changes itself after a step of training has `adapt(report)`; one that sends now more and now
fewer rows to its experts tells the fewest and the most of a sequence in `rows_range(length)`.
B sequences of L tokens, T = B * L; E experts, S slots for each.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from blocks.context import Context
from blocks.moe.dispatch import RepeatedExperts, combine, for_any_input, run_experts, tally
from blocks.moe.merging import run_merged
from blocks.ops.masks import token_mask
from blocks.places import has_places, is_pointwise, refuse_places, without_places


class Routing(NamedTuple):
    """y_t = sum of weights[i] * expert_{indices[i]}(x_{tokens[i]}) over the routes i of token t.

    The three have one shape, in any order. Without `tokens`, `weights` and `indices` are (T, k), a row for each token. The
    index -1 leads nowhere: the route is dropped, and so are all routes of padding, whose y is 0. Where `stays`, an index from
    E on leaves the token as it is, and no expert runs. `expected` is the share of the routes that reach an expert where values are not known, on meta.
    """

    weights: Tensor
    indices: Tensor
    tokens: Tensor | None = None
    stays: bool = False
    expected: float = 1.0

    def mix(self, x: Tensor, experts: nn.Module, num_experts: int, ctx: Context | None = None) -> Tensor:
        """Sorted by expert once; where a graph is recorded, every token goes through every expert, most with weight 0."""
        mask, ctx = token_mask(x, ctx, packed=True), without_places(ctx)
        routing = self if mask is None else self._without(~mask.bool().flatten())
        way = routing._dense if for_any_input() else routing._sorted
        return way(x.reshape(-1, x.shape[-1]), experts, num_experts, ctx).view(x.shape)

    def _without(self, padding: Tensor) -> Routing:
        """The same without the routes of the tokens that are `padding` (T,)."""
        unowned = padding[self._owners()].view(self.indices.shape)
        return self._replace(indices=self.indices.masked_fill(unowned, -1))

    def _owners(self) -> Tensor:
        """The token of each route, flat."""
        if self.tokens is not None:
            return self.tokens.flatten()
        rows = torch.arange(self.indices.shape[0], device=self.indices.device)
        return rows.unsqueeze(-1).expand(self.indices.shape).flatten()

    def _sorted(self, tokens: Tensor, experts: nn.Module, num_experts: int, ctx: Context | None) -> Tensor:
        choices = self.indices.flatten()
        nowhere, *counts, staying = tally(choices, num_experts, self.expected)
        order = choices.argsort(stable=True)[nowhere:]
        owners = self._owners()[order]
        rows = tokens.index_select(0, owners)
        if not len(order):  # a sum of no rows, which has a gradient all the same
            return torch.zeros_like(tokens).index_add(
                0, owners, rows * self.weights.flatten()[order, None].to(rows.dtype)
            )
        routed = len(order) - staying
        y = run_experts(experts, rows[:routed], counts, ctx)
        y = torch.cat([y, rows[routed:]]) if staying else y
        return combine(y, self.weights.flatten()[order], owners, tokens.shape[0]).to(tokens.dtype)

    def _dense(self, tokens: Tensor, experts: nn.Module, num_experts: int, ctx: Context | None) -> Tensor:
        """The same sum over all experts, those that were not chosen with weight 0: a graph without sizes that come from data."""
        T, wide = tokens.shape[0], torch.promote_types(tokens.dtype, torch.float32)
        columns = num_experts + 2
        places = self._owners() * columns + (self.indices.flatten() + 1).clamp(max=columns - 1)
        weights = tokens.new_zeros(T * columns, dtype=wide).scatter_add(0, places, self.weights.flatten().to(wide))
        weights = weights.view(T, columns)
        y = tokens.to(wide) * weights[:, -1:] if self.stays else torch.zeros_like(tokens, dtype=wide)
        for index in range(num_experts):
            counts = [0] * index + [T] + [0] * (num_experts - 1 - index)
            y = y + run_experts(experts, tokens, counts, ctx).to(wide) * weights[:, index + 1, None]
        return y.to(tokens.dtype)


class Slots(NamedTuple):
    """y = sum over slots s of combine_s * f(sum over tokens l of dispatch_{l,s} x_l), f the expert that owns the slot.

    Both are (B, L, E, S). Nothing is chosen, so nothing is dropped.
    """

    dispatch: Tensor
    combine: Tensor

    def mix(self, x: Tensor, experts: nn.Module, num_experts: int, ctx: Context | None = None) -> Tensor:
        B, _, E, S = self.dispatch.shape
        slots = self.dispatch.flatten(2).transpose(1, 2) @ x
        rows = slots.unflatten(1, (E, S)).transpose(0, 1).reshape(-1, x.shape[-1])
        y = run_experts(experts, rows, [B * S] * E, without_places(ctx))
        return self.combine.flatten(2) @ y.unflatten(0, (E, B, S)).transpose(0, 1).flatten(1, 2)


class Merging(NamedTuple):
    """y = f(x) with the parameters sum_e weights_e theta_e: one expert for each sequence, an average of all. `weights` (B, E)."""

    weights: Tensor

    def mix(self, x: Tensor, experts: nn.Module, num_experts: int, ctx: Context | None = None) -> Tensor:
        if has_places(ctx):
            for expert in experts.children() if isinstance(experts, RepeatedExperts) else [experts]:
                if not is_pointwise(type(expert)):
                    refuse_places(expert, ctx)
        return run_merged(experts, self.weights, x)


def as_sequences(x: Tensor) -> Tensor:
    """(B, C, H, W) or (B, L, C) -> (B, L, C), as a view where the image is channels_last."""
    return x.flatten(2).transpose(1, 2) if x.ndim == 4 else x


def as_rows(x: Tensor) -> Tensor:
    """(B, C, H, W) or (B, L, C) -> (T, C), the tokens of the whole batch."""
    x = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
    return x.reshape(-1, x.shape[-1])


def shape_of(x: Tensor) -> tuple[int, int]:
    """(B, L) of (B, C, H, W) or (B, L, C)."""
    return (x.shape[0], x.shape[2] * x.shape[3]) if x.ndim == 4 else (x.shape[0], x.shape[1])
