"""Decays in a graph: sums of logarithms, each taken over its own steps by a product with a table of zeros and ones, then `exp`.

All terms are at most 0, so nothing overflows, nothing cancels, and no large sum is taken from another. A factor of exactly 0
has the logarithm -inf, which no product takes: it stands as SMALLEST, of which `exp` is 0 as well.

C is here the number of steps of a chunk, n of chunks, K the width of a key, S the number of sizes of blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from blocks.ops.chunks import order_of
from blocks.ops.graph.sizes import Size, earlier
from blocks.ops.recorded import fixed

SMALLEST = -1e4
MOST = 64
"""Steps of the longest chunk, for which there are tables."""


class ChunkDecays(NamedTuple):
    """Decays in a chunk: from its start to each read `start`, from each write to its end `end`, over it all in logarithms `total`."""

    start: Tensor
    end: Tensor
    total: Tensor


def _lower_tables() -> tuple[Tensor, Tensor]:
    """(MOST, MOST) twice: 1 below the diagonal, and on it too."""
    ones = torch.ones(MOST, MOST)
    return ones.tril(-1), ones.tril()


def _level_tables() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(S, MOST, MOST) each. Of blocks of 2 s steps, s = 1, 2, …: pairs of their halves, and the sums of logarithms from each write to
    the middle, and from the middle to each read, without its own step and with it."""
    at, tables = torch.arange(MOST), []
    for size in (2 << level for level in range((MOST - 1).bit_length())):
        block, middle = at // size, at // size * size + size // 2
        right = (at >= middle).unsqueeze(1)
        since = right & (at >= middle.unsqueeze(1))
        behind, row = at > at.unsqueeze(1), at.unsqueeze(1)
        pairs = (block.unsqueeze(1) == block) & right & ~right.T
        tables.append((pairs, ~right & behind & (at < middle.unsqueeze(1)), since & (at < row), since & (at <= row)))
    return tuple(torch.stack(masks).float() for masks in zip(*tables, strict=True))  # type: ignore[return-value]


with (
    torch.inference_mode(False),
    torch.device("cpu"),
):  # now, since what is made while a graph is recorded belongs to the graph
    LOWER, LOWER_OWN = _lower_tables()
    PAIRS, WRITES, READS, READS_OWN = _level_tables()


def table(values: Tensor, steps: Size, like: Tensor) -> Tensor:
    """The first `steps` rows and columns of a table (…, MOST, MOST), in the dtype and on the device of `like`."""
    return values.to(like.device, like.dtype)[..., :steps, :steps]


def lower(own: bool, steps: Size, like: Tensor) -> Tensor:
    """(C, C): 1 below the diagonal, and on it where `own`, else 0."""
    return table(LOWER_OWN if own else LOWER, steps, like)


def diagonal(steps: Size, like: Tensor) -> Tensor:
    """(C, C): 1 on the diagonal, else 0."""
    return lower(True, steps, like) - lower(False, steps, like)


def levels(values: Tensor, most: int, steps: Size, like: Tensor) -> Tensor:
    """(S, C, C): a table for the S sizes of blocks that `most` steps need."""
    return table(values[: max(1, (most - 1).bit_length())], steps, like)


def finite(log_decay: Tensor) -> Tensor:
    """Logarithms of which products with 0 are 0."""
    return log_decay.clamp(min=SMALLEST)


def pair_decays(g: Tensor, order: str, steps: Size) -> Tensor:
    """(…, C, C) decays from a column's write to a row's read, 0 where it does not see it, of logarithms g (…, C)."""
    own = order_of(order)
    spans = lower(own.before_read, steps, g) @ (g.unsqueeze(-1) * lower(False, steps, g))
    return spans.exp() * lower(own.sees_itself, steps, g)


def chunk_decays(g: Tensor, order: str, steps: Size) -> ChunkDecays:
    """The decays of logarithms g (…, C, K)."""
    before = lower(order_of(order).before_read, steps, g)
    behind = lower(False, steps, g).transpose(-1, -2)
    return ChunkDecays((before @ g).exp(), (behind @ g).exp(), g.sum(-2, keepdim=True))


def damped_scores(q: Tensor, k: Tensor, g: Tensor, order: str, most: int, steps: Size) -> Tensor:
    """(…, C, C): sum over K of q_i, k_j and the decays between them, 0 where i does not see j, of logarithms g (…, C, K).

    Any two steps are in the right and the left half of one block of some size. In the middle of it the decay falls into two
    factors, each of one step, so that a level is a product of matrices.
    """
    own = order_of(order)
    sums, pairs = READS_OWN if own.before_read else READS, levels(PAIRS, most, steps, g)
    after = (levels(sums, most, steps, g) @ g.unsqueeze(-3)).exp()
    before = (levels(WRITES, most, steps, g) @ g.unsqueeze(-3)).exp()
    scores = ((q.unsqueeze(-3) * after) @ (k.unsqueeze(-3) * before).transpose(-1, -2) * pairs).sum(-3)
    return scores + (q * k).sum(-1, keepdim=True) * diagonal(steps, g) if own.sees_itself else scores


def states_between(written: Tensor, total: Tensor | None, state: Tensor | None, count: Size) -> Tensor:
    """(B, H, n + 1, K, V): the state before each chunk and after the last, of what chunks write (B, H, n, K, V).

    `total` (B, H, n, 1 or K) are the logarithms of the decays over each chunk; `state` (B, H, K, V) comes before all.
    """
    before = earlier(count, written)
    shape = fixed(written)[-2:]
    if total is None or fixed(total)[-1] == 1:
        decays = before if total is None else _spans(total.transpose(-1, -2), before).squeeze(2)
        states = (decays @ written.flatten(-2)).unflatten(-1, shape)
    else:
        states = (_spans(total.transpose(-1, -2), before) @ written.transpose(2, 3)).transpose(2, 3)
    if state is None:
        return states
    since = state.unsqueeze(2) if total is None else (before @ total).exp().unsqueeze(-1) * state.unsqueeze(2)
    return states + since


def _spans(total: Tensor, before: Tensor) -> Tensor:
    """(…, n + 1, n): decays from the end of a column's chunk to the start of a row's, of logarithms (…, n)."""
    return (before @ (total.unsqueeze(-1) * before[:-1])).exp() * before
