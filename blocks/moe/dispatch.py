"""Rows to experts and back: counting them, running each expert on its slice, summing what comes back for each token.

R is here the number of rows that were sent, E the number of experts, T the number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import may_overwrite, run
from blocks.context import Context


class Tracing:
    """What torch.jit records: a graph for any input or, where a count wants it, the work of the one input that it is given."""

    as_run = False


@contextmanager
def traced_as_run() -> Iterator[None]:
    """Meanwhile torch.jit records each row at its own expert."""
    Tracing.as_run = True
    try:
        yield
    finally:
        Tracing.as_run = False


def for_any_input() -> bool:
    """Whether what is recorded now has to hold for other inputs, so that no size may come from the values of this one."""
    return torch.compiler.is_exporting() or (torch.jit.is_tracing() and not Tracing.as_run)


class RepeatedExperts(nn.Module):
    """One module for each expert, at `0`, `1`, …; run as `experts(rows, counts)`, like a block that holds them all."""

    takes_ctx = True

    def __init__(self, experts: Iterable[nn.Module]):
        super().__init__()
        for e, expert in enumerate(experts):
            self.add_module(str(e), expert)

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, e: int) -> nn.Module:
        return list(self.children())[e]

    def forward(self, rows: Tensor, counts: list[int], ctx: Context | None = None) -> Tensor:
        experts = list(self.children())
        return by_slices(rows, counts, lambda e, part, _: run(experts[e], part.unsqueeze(0), ctx).squeeze(0))


def by_slices(rows: Tensor, counts: list[int], expert: Callable[[int, Tensor, Tensor | None], Tensor]) -> Tensor:
    """Rows (R, C) -> (R, C): the first `counts[0]` through `expert(0, …)`, and so on; an expert without rows does not run.

    Where no gradient is wanted the outputs are written over the rows, which saves memory that nobody has touched yet. Then
    `expert(e, part, out)` may write to `out`, which is `part`, and return it; otherwise `out` is None.
    """
    busy = [e for e, count in enumerate(counts) if not (isinstance(count, int) and count == 0)]
    if len(busy) == 1:  # a graph for any number of rows asks no more of it
        return expert(busy[0], rows, None)
    parts = [(e, part) for e, part in enumerate(rows.split(counts)) if counts[e] != 0]
    if len(parts) <= 1:
        return expert(*parts[0], None) if parts else rows
    if not may_overwrite(rows):
        return torch.cat([expert(e, part, None) for e, part in parts])
    for e, part in parts:
        y = expert(e, part, part)
        if y is not part:
            part.copy_(y)
    return rows


def run_experts(experts: Any, rows: Tensor, counts: list[int], ctx: Context | None) -> Tensor:
    """`experts(rows, counts)`, with ctx for those that name it. The rows are lost when no gradient is wanted."""
    return experts(rows, counts, ctx) if getattr(experts, "takes_ctx", False) else experts(rows, counts)


def tally(choices: Tensor, num_experts: int, expected: float) -> list[int]:
    """How many choices lead nowhere (-1), to each of the experts, and beyond them (E and more): E + 2 counts.

    On meta nothing is known of the choices: the share `expected` of them goes to the first expert, which costs as much.
    """
    if choices.is_meta:
        reach = round(choices.numel() * expected)
        return [choices.numel() - reach, reach, *[0] * num_experts]
    return torch.bincount((choices + 1).clamp(max=num_experts + 1), minlength=num_experts + 2).tolist()


def combine(rows: Tensor, weights: Tensor, owners: Tensor, num_tokens: int) -> Tensor:
    """y_t = sum of weights_i rows_i over the i that token t owns: (R, C), (R,), (R,) -> (T, C), summed in float32 or wider."""
    by_token = owners.argsort(stable=True)
    shares = torch.zeros(num_tokens, dtype=owners.dtype, device=owners.device)
    ends = shares.index_add(0, owners, torch.ones_like(owners)).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    weights = weights.index_select(0, by_token).to(rows.dtype)
    return F.embedding_bag(by_token, rows, starts, mode="sum", per_sample_weights=weights)
