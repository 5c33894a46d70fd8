"""Keys and values of earlier calls: what a causal attention keeps in its state, and what each of its queries may look at.

B is here the batch, L the number of new tokens, M of keys in all, W the window: how many tokens a query looks at, its own
included.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from blocks.ops.recorded import lengths_are_free
from blocks.recurrent import State


class LookBack(NamedTuple):
    """All keys and values (B, M, …), which of them each query sees (B, 1, L, M) or None for the plain causal rule, the state."""

    parts: tuple[Tensor, ...]
    visible: Tensor | None
    is_causal: bool
    state: State


def seen_before(state: State | None) -> Tensor | None:
    """How many tokens each sample has had so far (B,)."""
    return None if state is None else state[-2] if state[-1].dtype == torch.bool else state[-1]


def look_back(
    parts: tuple[Tensor, ...],
    where: Tensor,
    after: Tensor,
    state: State | None,
    mask: Tensor | None,
    window: int | None,
) -> LookBack:
    """New keys and values (B, L, …) at positions `where` (B, L) behind those of the state.

    The state is (*parts, tokens so far (B,)), and where samples have had padding also which of its columns are tokens
    (B, M). Of a window it keeps what the next token sees. `after` (B,) are the tokens then.
    """
    length, ragged = where.shape[1], mask is not None
    real = mask
    if state is not None:
        ragged = ragged or state[-1].dtype == torch.bool
        before = state[: len(parts)]
        if ragged:
            fresh = torch.ones(where.shape, dtype=torch.bool, device=where.device) if mask is None else mask
            was_real = state[-1] if state[-1].dtype == torch.bool else fresh.new_ones(before[0].shape[:2])
            real = torch.cat([was_real, fresh], 1)
        parts = tuple(torch.cat([old.to(new.dtype), new], 1) for old, new in zip(before, parts, strict=True))
    memory = _kept(parts, real, window)
    rest: State = (after, memory[-1]) if ragged else (after,)
    if not ragged and _is_plain(parts[0].shape[1], length, state, window):
        return LookBack(parts, None, state is None, (*memory[: len(parts)], *rest))
    visible = _visible(where, after, parts[0].shape[1], real, window, mask is not None)
    return LookBack(parts, visible, False, (*memory[: len(parts)], *rest))


def _is_plain(count: int, length: int, state: State | None, window: int | None) -> bool:
    """Whether queries see all that there is, but for what comes after them; in a graph for any length only where no length can change it."""
    if lengths_are_free():
        return state is None and window is None
    return (window is None or count <= window) and (state is None or length == 1)


def _kept(parts: tuple[Tensor, ...], known: Tensor | None, window: int | None) -> tuple[Tensor, ...]:
    """The columns that later tokens may see, and which of them are tokens."""
    columns = parts if known is None else (*parts, known)
    if window is None or (not lengths_are_free() and parts[0].shape[1] < window):
        return columns
    if known is not None:  # tokens last, in their order
        order = known.to(torch.uint8).argsort(dim=1, stable=True)
        columns = tuple(x.gather(1, order.view(*order.shape, *[1] * (x.ndim - 2)).expand_as(x)) for x in columns)
    return tuple(x[:, 1 - window :] if window > 1 else x[:, :0] for x in columns)


def _visible(where: Tensor, after: Tensor, held: int, known: Tensor | None, window: int | None, padded: bool) -> Tensor:
    """(B, 1, L, M). What is held of a sample are its last tokens, `known` (B, M) or all. A query sees itself at least, padding too:
    a softmax of nothing is NaN. Where none of the new tokens is padding, each sees itself in any case."""
    if known is None:
        keys = after.unsqueeze(1) - held + torch.arange(held, device=where.device)
    else:
        count = known.cumsum(1)
        keys = after.unsqueeze(1) - count[:, -1:] + count - 1
    keys, queries = keys.unsqueeze(1), where.unsqueeze(2)
    visible = keys <= queries if known is None else known.unsqueeze(1) & (keys <= queries)
    if window is not None:
        visible = visible & (keys > queries - window)
    if padded:
        diagonal = torch.eye(where.shape[1], dtype=torch.bool, device=where.device)
        visible[..., visible.shape[-1] - where.shape[1] :] |= diagonal  # not from -L on, which for no queries is all
    return visible.unsqueeze(1)
