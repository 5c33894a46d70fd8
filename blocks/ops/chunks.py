"""Recurrences in chunks of plain torch: decays between the steps of a chunk, the scores they damp, the states between chunks.

The decay from one step to another is a product of factors from 0 to 1, and it is taken as one: two halves of a block
meet in the middle, where the decay from the writing step up to there times that from there to the reading step is all
that there is between them. So nothing is divided, no difference of large sums of logarithms is taken, and a factor of
exactly 0 cuts a sequence exactly.

B is here the batch, n the number of chunks, H of heads, C the steps of a chunk, K and V the widths of a key and a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 64

INCLUSIVE = "decay, write, read"
EXCLUSIVE = "read, decay, write"
READ_FIRST = "decay, read, write"
"""What happens to the state at a step, in this order."""

BACKWARD = {
    INCLUSIVE: "write, read, decay",
    "write, read, decay": INCLUSIVE,
    EXCLUSIVE: EXCLUSIVE,
    READ_FIRST: "read, write, decay",
    "read, write, decay": READ_FIRST,
}
"""The order in which, back through time, the gradient flows of what happens in an order."""


class Order(NamedTuple):
    """Whether a step's own decay lies before its read and behind its write, and whether it reads what it writes."""

    before_read: bool
    behind_write: bool
    sees_itself: bool


def order_of(order: str) -> Order:
    at = order.split(", ").index
    return Order(at("decay") < at("read"), at("write") < at("decay"), at("write") < at("read"))


class Halves(NamedTuple):
    """Decays about the middle of blocks of 2 s steps: after it, of each step of the right half, and before it, of the left."""

    s: int
    after: Tensor
    before: Tensor


class Decays(NamedTuple):
    """The decay of every step of a chunk: from the chunk's start to its read, from its write to the chunk's end; and over the chunk."""

    start: Tensor
    end: Tensor
    total: Tensor


def chunk_size(length: int) -> int:
    """CHUNK, or for a short sequence the power of 2 that holds it."""
    return min(CHUNK, 1 << (length - 1).bit_length())


def in_chunks(x: Tensor, size: int, fill: float = 0.0) -> Tensor:
    """(B, L, H, …) -> (n, B, H, C, …), filled up behind; one copy, or every product with it would make its own."""
    missing = -x.shape[1] % size
    if missing:
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, missing), value=fill)
    x = x.unflatten(1, (-1, size)).transpose(2, 3)  # (B, n, H, C, …)
    return x.transpose(0, 1).contiguous()


def in_sequence(x: Tensor, length: int) -> Tensor:
    """(n, B, H, C, V) -> (B, L, H, V)."""
    return x.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :length]


def halves(a: Tensor, order: str) -> Iterator[Halves | Decays]:
    """The decays of the factors `a` (…, C, D) of the steps: Halves for s = 1, 2, …, C / 2, each (…, C / 2 s, s, D); Decays at last."""
    size = a.shape[-2]
    after = a.clone() if order_of(order).before_read else torch.ones_like(a)
    before = a.clone() if order_of(order).behind_write else torch.ones_like(a)
    total, s = a, 1
    while s < size:
        blocks = (size // (2 * s), 2, s)
        left_of, right_of = before.unflatten(-2, blocks).select(-3, 0), after.unflatten(-2, blocks).select(-3, 1)
        yield Halves(s, right_of, left_of)
        left, right = total.unflatten(-2, (-1, 2)).unbind(-2)
        right_of *= left.unsqueeze(-2)
        left_of *= right.unsqueeze(-2)
        total, s = left * right, 2 * s
    yield Decays(after, before, total)


def lower(matrix: Tensor, s: int) -> Tensor:
    """(…, C, C) -> (…, C / 2 s, s, s): where the right halves of blocks of 2 s steps look at the left ones, a view."""
    blocks = matrix.unflatten(-1, (-1, 2, s)).unflatten(-4, (-1, 2, s))  # (…, block, half, s, block, half, s)
    return blocks.select(-5, 1).select(-2, 0).diagonal(0, -4, -2).movedim(-1, -3)


def pair_decays(a: Tensor, order: str) -> tuple[Tensor, Decays]:
    """(the decays (…, C, C) from the write of a column's step to the read of a row's, those of the chunk) of `a` (…, C)."""
    pairs = a.new_zeros(*a.shape, a.shape[-1])
    if order_of(order).sees_itself:
        pairs.diagonal(0, -2, -1).fill_(1)
    for level in halves(a.unsqueeze(-1), order):
        if isinstance(level, Decays):
            break
        torch.mul(level.after, level.before.transpose(-1, -2), out=lower(pairs, level.s))
    return pairs, level  # type: ignore[return-value]


def damped_scores(q: Tensor, k: Tensor, a: Tensor, order: str) -> tuple[Tensor, Decays]:
    """(sum over K of q_i, k_j and the decays between them, (…, C, C); those of the chunk), for factors `a` (…, C, K)."""
    scores = q.new_zeros(*q.shape[:-1], q.shape[-2])
    if order_of(order).sees_itself:
        scores.diagonal(0, -2, -1).copy_((q * k).sum(-1))
    for level in halves(a, order):
        if isinstance(level, Decays):
            break
        blocks = (-1, 2, level.s)
        reads = q.unflatten(-2, blocks).select(-3, 1) * level.after
        writes = k.unflatten(-2, blocks).select(-3, 0) * level.before
        lower(scores, level.s).copy_(reads @ writes.transpose(-1, -2))
    return scores, level  # type: ignore[return-value]


def damped_values(scores: Tensor, v: Tensor, a: Tensor, order: str) -> tuple[Tensor, Decays]:
    """(sum over j of scores_ij v_j and the decays between them, (…, C, V); those of the chunk), for factors `a` (…, C, V)."""
    y = torch.zeros_like(v)
    if order_of(order).sees_itself:
        torch.mul(scores.diagonal(0, -2, -1).unsqueeze(-1), v, out=y)
    for level in halves(a, order):
        if isinstance(level, Decays):
            break
        blocks = (-1, 2, level.s)
        writes = v.unflatten(-2, blocks).select(-3, 0) * level.before
        y.unflatten(-2, blocks).select(-3, 1).addcmul_(lower(scores, level.s) @ writes, level.after)
    return y, level  # type: ignore[return-value]


def carried(written: Tensor, total: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """(the states before each chunk, in the place of what the chunks write (n, B, …); the state after the last)."""
    for index, chunk in enumerate(written):
        after = chunk + state if total is None else torch.addcmul(chunk, total[index], state)
        chunk.copy_(state)
        state = after
    return written, state
