"""The selective scan as a graph: what depends on a step alone is taken out of the loop, which keeps the state.

B is here the batch, L the length, D the number of channels, G of groups of them, K = D / G, N the size of a channel's state.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.ops.dispatch import GRAPH, implements
from blocks.ops.graph import loops
from blocks.ops.graph.sizes import chunks_of, in_chunks, is_number, length_of
from blocks.ops.recorded import fixed
from blocks.ops.selective_scan.steps import OP, Scan, fast_dtype

BLOCK = 16
"""Steps of a block, of which all run side by side."""
MOST_IN_BLOCKS = 2**15
"""Numbers of a state, G N K: with more of them a step is work enough for itself, and blocks would not stay in a cache."""


class Steps(NamedTuple):
    """What goes through the loop: step, x = step u (L, B, G, 1, K), B (L, B, G, N, 1), C (L, B, G, 1, N)."""

    step: Tensor
    x: Tensor
    B: Tensor
    C: Tensor


@implements(OP, GRAPH)
def selective_scan(scan: Scan, keep: bool = False) -> tuple[Tensor, Tensor]:
    """(y (B, L, D), the last state (B, D, N)). Raises ValueError for packed sequences, whose borders are data."""
    u, delta, A, B, C, D, z, bias, softplus, state, borders = scan
    if borders is not None:
        raise ValueError("a graph holds no packed sequences (`cu_seqlens`): where they begin is data; pad them")
    dtype, groups = fast_dtype(u, delta, A, B, C, state), fixed(B)[2]
    wide = u.to(dtype)
    step = delta.to(dtype) if bias is None else delta.to(dtype) + bias.to(dtype)
    step = F.softplus(step) if softplus else step
    rates = _by_state(A.to(dtype).unsqueeze(0), groups)
    if state is None:
        first = wide.new_zeros(u.shape[0], *fixed(rates)[1:])
    else:
        first = _by_state(state.to(dtype), groups)
    step_t, x_t = (_by_time(x, groups).unsqueeze(3) for x in (step, step * wide))
    B, C = (x.to(dtype).transpose(0, 1) for x in (B, C))
    steps = Steps(step_t, x_t, B.unsqueeze(4), C.unsqueeze(3))
    run = _in_blocks if math.prod(fixed(rates)) <= MOST_IN_BLOCKS else _step_by_step
    y, last = run(steps, rates.squeeze(0), first)
    y = y.squeeze(3).flatten(2).transpose(0, 1)
    if D is not None:
        y = y + wide * D.to(dtype)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), last.transpose(2, 3).flatten(1, 2)


def _by_time(x: Tensor, groups: int) -> Tensor:
    """(B, L, D) -> (L, B, G, K)."""
    return x.transpose(0, 1).unflatten(2, (groups, -1))


def _by_state(x: Tensor, groups: int) -> Tensor:
    """(B, D, N) -> (B, G, N, K)."""
    return x.unflatten(1, (groups, -1)).transpose(2, 3)


def _step_by_step(steps: Steps, rates: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """(y (L, B, G, 1, K), the last state), a loop over all steps."""
    return loops.scan_steps(*steps, rates, first)


def _in_blocks(steps: Steps, rates: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """The same with blocks of steps side by side: from zeros within each, then from block to block, then both together.

    With p_i the decay from the start of a block to its step i and H the state before it, the state is h_i + p_i H.
    """
    length = length_of(steps.step, 0)
    if is_number(length):
        size, count = chunks_of(length, min(BLOCK, math.isqrt(max(length, 1) - 1) + 1))
    else:
        size, count = BLOCK, (length + BLOCK - 1) // BLOCK + int(isinstance(length, torch.SymInt))
    blocks = Steps(*(in_chunks(x, length, size, count, axis=0) for x in steps))
    decays, written = (blocks.step * rates).exp().unbind(1), (blocks.B * blocks.x).unbind(1)
    states, since = [written[0]], [decays[0]]
    for decay, fresh in zip(decays[1:], written[1:], strict=True):
        states.append(decay * states[-1] + fresh)
        since.append(decay * since[-1])
    before, last = loops.carried(since[-1], states[-1], first)
    whole = [C @ (h + p * before) for C, h, p in zip(blocks.C.unbind(1), states, since, strict=True)]
    return torch.stack(whole, 1).flatten(0, 1)[:length], last
