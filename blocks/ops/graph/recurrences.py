"""The linear recurrence and the delta rule as graphs: scores within chunks, states between them.

B is here the batch, L the length, n the number of chunks, C the steps of one, H of heads, K and V the widths of a key and a value.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from blocks.ops.chunks import INCLUSIVE, order_of
from blocks.ops.dispatch import GRAPH, implements
from blocks.ops.graph import loops
from blocks.ops.graph.decays import (
    MOST,
    PAIRS,
    ChunkDecays,
    chunk_decays,
    damped_scores,
    diagonal,
    finite,
    levels,
    lower,
    pair_decays,
    states_between,
)
from blocks.ops.graph.sizes import Size, chunks_of, in_chunks, in_sequence, is_number, length_of, of_each_head
from blocks.ops.recorded import fixed

CHUNK = MOST
"""Steps of a chunk where a head has one decay or none."""
CHUNK_OF_CHANNELS = 32
"""The same where each channel of the keys has its own: scores are then a product for every level of halves."""
CHUNK_OF_DELTAS = 32
"""The same of the delta rule, which solves a triangular system within a chunk."""


class Cut(NamedTuple):
    """How a sequence is cut: its length, at most how many steps a chunk has, how many it has, and how many chunks there are."""

    length: Size
    most: int
    steps: Size
    count: Size

    def of(self, x: Tensor) -> Tensor:
        """(B, L, H, X) -> (B, H, n, C, X)."""
        return in_chunks(x, self.length, self.steps, self.count).permute(0, 3, 1, 2, 4)

    def back(self, x: Tensor) -> Tensor:
        """(B, H, n, C, V) -> (B, L, H, V)."""
        return in_sequence(x.permute(0, 2, 3, 1, 4), self.length)

    @property
    def is_one(self) -> bool:
        return is_number(self.count) and self.count == 1


def cut_of(x: Tensor, most: int) -> Cut:
    """Chunks of at most so many steps; of a length that is fixed all of about one size, so that little is filled up."""
    length = length_of(x)
    if is_number(length):
        most = max(1, -(-length // max(1, -(-length // most))))
    return Cut(length, most, *chunks_of(length, most))


@implements("linear_recurrence", GRAPH)
def linear_recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    order: str,
    reverse: bool,
    on_values: bool,
) -> tuple[Tensor, Tensor]:
    """(o (B, L, H, V), the last state (B, H, K, V)). Without a gradient: forward in time; decays along values for one key alone."""
    assert not reverse  # what gradients alone ask for
    if on_values:
        return _of_channels(q, k, v, log_decay, state, order)
    heads, by_channel = fixed(v)[2], log_decay is not None and log_decay.ndim == 4
    cut = cut_of(v, CHUNK_OF_CHANNELS if by_channel else CHUNK)
    q, k = (cut.of(of_each_head(x, heads)) for x in (q, k))
    v = cut.of(v)
    decays = None
    if log_decay is None:
        scores = (q @ k.transpose(-1, -2)) * lower(order_of(order).sees_itself, cut.steps, v)
    else:
        g = cut.of(finite(log_decay if by_channel else log_decay.unsqueeze(-1)))
        decays = chunk_decays(g, order, cut.steps)
        if by_channel:
            scores = damped_scores(q, k, g, order, cut.most, cut.steps)
        else:
            scores = (q @ k.transpose(-1, -2)) * pair_decays(g.squeeze(-1), order, cut.steps)
    o = scores @ v
    written = (k if decays is None else k * decays.end).transpose(-1, -2) @ v
    shown = q if decays is None else q * decays.start
    before, last = _states(written, decays, state, cut)
    return cut.back(o if before is None else o + shown @ before), last


def _of_channels(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, state: Tensor | None, order: str
) -> tuple[Tensor, Tensor]:
    """Decays along the values: each value is a head of its own. For one head of one key, as `channel_recurrence` has it."""
    assert fixed(k)[2:] == fixed(q)[2:] == (1, 1) and log_decay is not None
    heads, values = fixed(v)[2:]
    start = None if state is None else state.reshape(-1, heads * values, 1, 1)
    o, last = linear_recurrence(q, k, v.flatten(2).unsqueeze(-1), log_decay.flatten(2), start, order, False, False)
    return o.squeeze(-1).unflatten(-1, (heads, values)), last.reshape(-1, heads, 1, values)


def _states(
    written: Tensor, decays: ChunkDecays | None, state: Tensor | None, cut: Cut
) -> tuple[Tensor | None, Tensor]:
    """(the states before each chunk (B, H, n, K, V), None where they are zeros; the last) of what chunks write."""
    total = None if decays is None else decays.total.squeeze(-2)
    if cut.is_one:
        if state is None:
            return None, written.squeeze(2)
        kept = state if total is None else total.exp().transpose(-1, -2) * state
        return state.unsqueeze(2), kept + written.squeeze(2)
    states = states_between(written, total, state, cut.count)
    return states[:, :, :-1], states[:, :, -1]


@implements("delta_rule", GRAPH)
def delta_rule(
    q: Tensor,
    r: Tensor,
    k: Tensor,
    v: Tensor,
    gain: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    order: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(o, w, the last state), as the eager form: what the steps of a chunk read of each other's writes is a triangular system."""
    heads, keys, values = fixed(v)[2], fixed(k)[3], fixed(v)[3]
    cut = cut_of(v, CHUNK_OF_DELTAS)
    q, r, k = (cut.of(of_each_head(x, heads)) for x in (q, r, k))
    v, gain, beta = cut.of(v), cut.of(gain.unsqueeze(-1)), cut.of(beta.unsqueeze(-1))
    if log_decay is None:
        products = k.transpose(-1, -2)
        scores = (q @ products) * lower(True, cut.steps, v)
        read = (r @ products) * lower(False, cut.steps, v)
        asked, shown, kept, total = r, q, k, None
    else:
        by_channel = log_decay.ndim == 4
        g = cut.of(finite(log_decay if by_channel else log_decay.unsqueeze(-1)))
        scores, read = _scores(q, r, k, g, order, cut, by_channel)
        after = chunk_decays(g, INCLUSIVE, cut.steps)
        asked = r * chunk_decays(g, order, cut.steps).start
        shown, kept, total = q * after.start, k * after.end, after.total.transpose(-1, -2).exp()
    answers = unit_inverse(read * -beta, cut)
    writes, of_state = answers @ (v * gain), answers @ (asked * beta)
    if state is None:
        state = v.new_zeros(v.shape[0], heads, keys, values)
    w, seen, last = _through_chunks(writes, of_state, shown, kept.transpose(-1, -2), total, state, cut)
    return cut.back(seen + scores @ w), cut.back(w), last


def _scores(
    q: Tensor, r: Tensor, k: Tensor, g: Tensor, order: str, cut: Cut, by_channel: bool
) -> tuple[Tensor, Tensor]:
    """Within chunks: scores of q with k, and of r with k below the diagonal."""
    if by_channel:
        scores = damped_scores(q, k, g, INCLUSIVE, cut.most, cut.steps)
        return scores, damped_scores(r, k, g, order, cut.most, cut.steps)
    keys, g = k.transpose(-1, -2), g.squeeze(-1)
    scores = (q @ keys) * pair_decays(g, INCLUSIVE, cut.steps)
    return scores, (r @ keys) * pair_decays(g, order, cut.steps)


def unit_inverse(below: Tensor, cut: Cut) -> Tensor:
    """(I + N)^-1 of a matrix N (…, C, C) below the diagonal, from blocks of 2 steps to blocks of all.

    [A 0; N' D]^-1 = [A^-1 0; -D^-1 N' A^-1 D^-1]: as exact as solving row by row, where a power series of N would cancel.
    """
    first, *rest = levels(PAIRS, cut.most, cut.steps, below).unbind()
    inverse = diagonal(cut.steps, below) - below * first
    for corner in rest:
        inverse = inverse - inverse @ (below * corner) @ inverse
    return inverse


def _through_chunks(
    writes: Tensor, of_state: Tensor, shown: Tensor, kept: Tensor, total: Tensor | None, state: Tensor, cut: Cut
) -> tuple[Tensor, Tensor, Tensor]:
    """(w (B, H, n, C, V), what is seen of earlier chunks (B, H, n, C, V), the last state), chunk after chunk."""
    if cut.is_one:
        w = writes + of_state @ state.unsqueeze(2)
        kept_state = state if total is None else total.squeeze(2) * state
        return w, shown @ state.unsqueeze(2), kept_state + kept.squeeze(2) @ w.squeeze(2)
    if total is None:
        total = torch.ones_like(kept[..., :1, :1])
    writes, of_state, shown, kept, total = (x.permute(2, 0, 1, 3, 4) for x in (writes, of_state, shown, kept, total))
    w, seen, last = loops.delta_chunks(writes, of_state, shown, kept, total, state)
    return w.permute(1, 2, 0, 3, 4), seen.permute(1, 2, 0, 3, 4), last
