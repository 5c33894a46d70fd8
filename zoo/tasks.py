"""Tasks that code generates, in which sequence mixers differ: recall, copying, induction, parity, nested expressions.

A batch is (ids, targets), both (B, L); a target of -100 is not asked for. A task is causal: each target can be told from the ids up to its
position. Two generators of one seed give the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

UNASKED = -100

Batch = Callable[[int, Generator], tuple[Tensor, Tensor]]


class Task(NamedTuple):
    """`chance` is the accuracy of a guess that ignores the ids; `paper` where the task is from."""

    name: str
    vocab_size: int
    length: int
    chance: float
    paper: str
    batch: Batch


def recall(
    count: int, generator: Generator, pairs: int = 8, keys: int = 32, values: int = 32, length: int = 64
) -> tuple[Tensor, Tensor]:
    """Multi-query associative recall (arXiv:2312.04927): pairs of key and value, then each key again, in any order, somewhere later.

    Keys are 0 to `keys` - 1, values follow them; behind the values stands one token of filling. The target at a key's second place is
    its value.
    """
    key = torch.rand(count, keys, generator=generator).argsort(1)[:, :pairs]
    value = keys + torch.randint(values, (count, pairs), generator=generator)
    ids = torch.full((count, length), keys + values)
    ids[:, : 2 * pairs] = torch.stack([key, value], 2).flatten(1)
    places = 2 * pairs + torch.rand(count, length - 2 * pairs, generator=generator).argsort(1)[:, :pairs]
    ids.scatter_(1, places, key)
    return ids, torch.full_like(ids, UNASKED).scatter_(1, places, value)


def selective_copying(
    count: int, generator: Generator, data: int = 8, values: int = 16, length: int = 64
) -> tuple[Tensor, Tensor]:
    """Selective copying (arXiv:2312.00752): `data` tokens among noise, to be told in their order at the end, where `data` marks ask.

    Values are 0 to `values` - 1, noise is `values`, a mark `values` + 1.
    """
    body = length - data
    value = torch.randint(values, (count, data), generator=generator)
    places = torch.rand(count, body, generator=generator).argsort(1)[:, :data].sort(1).values
    ids = torch.full((count, length), values)
    ids.scatter_(1, places, value)
    ids[:, body:] = values + 1
    targets = torch.full_like(ids, UNASKED)
    targets[:, body:] = value
    return ids, targets


def induction(count: int, generator: Generator, values: int = 16, length: int = 64) -> tuple[Tensor, Tensor]:
    """Induction heads (arXiv:2209.11895, as in arXiv:2312.00752): a mark and the token behind it; when the mark comes again, that token.

    Values are 0 to `values` - 1, the mark is `values`. Asked for at the last position, where the mark stands a second time.
    """
    ids = torch.randint(values, (count, length), generator=generator)
    first = torch.randint(length - 2, (count, 1), generator=generator)
    ids.scatter_(1, first, values)
    ids[:, -1] = values
    targets = torch.full_like(ids, UNASKED)
    targets[:, -1] = ids.gather(1, first + 1).squeeze(1)
    return ids, targets


def parity(count: int, generator: Generator, length: int = 64) -> tuple[Tensor, Tensor]:
    """Whether the number of ones so far is odd, at every position (arXiv:2207.02098)."""
    ids = torch.randint(2, (count, length), generator=generator)
    return ids, ids.cumsum(1) % 2


OPEN, CLOSE, FILLING = 10, 14, 15
OPERATORS = (max, min, lambda values: sorted(values)[len(values) // 2], lambda values: sum(values) % 10)
"""MAX, MIN, MEDIAN and SUM modulo 10, as tokens OPEN to OPEN + 3."""


def listops(count: int, generator: Generator, length: int = 64, depth: int = 3, most: int = 4) -> tuple[Tensor, Tensor]:
    """ListOps (arXiv:1804.06028): the value, 0 to 9, of a nested expression such as [MAX 2 9 [MIN 4 7] 0], asked for at its end.

    Digits are themselves; filling stands before the expression, so that the last position is always its end.
    """
    ids = torch.full((count, length), FILLING)
    targets = torch.full_like(ids, UNASKED)
    for row in range(count):
        tokens, value = _expression(generator, depth, most, length)
        ids[row, length - len(tokens) :] = torch.tensor(tokens)
        targets[row, -1] = value
    return ids, targets


def _expression(generator: Generator, depth: int, most: int, room: int) -> tuple[list[int], int]:
    """Tokens and value of an expression of at most `room` tokens."""

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    operator = draw(len(OPERATORS))
    tokens, values = [OPEN + operator], []
    for _ in range(2 + draw(most - 1)):
        left = room - len(tokens) - 1
        if left < 1:
            break
        if depth > 1 and left >= 8 and draw(3) == 0:
            inner, value = _expression(generator, depth - 1, most, left)
        else:
            value = draw(10)
            inner = [value]
        tokens += inner
        values.append(value)
    return [*tokens, CLOSE], int(OPERATORS[operator](values))  # type: ignore[no-untyped-call]


TASKS = {
    task.name: task
    for task in (
        Task("recall", 33, 32, 1 / 16, "arXiv:2312.04927", partial(recall, pairs=4, keys=16, values=16, length=32)),
        Task(
            "selective_copying",
            10,
            32,
            1 / 8,
            "arXiv:2312.00752",
            partial(selective_copying, data=4, values=8, length=32),
        ),
        Task("induction", 9, 32, 1 / 8, "arXiv:2209.11895", partial(induction, values=8, length=32)),
        Task("parity", 2, 32, 1 / 2, "arXiv:2207.02098", partial(parity, length=32)),
        Task("listops", 16, 32, 1 / 10, "arXiv:1804.06028", partial(listops, length=32, depth=2)),
    )
}
"""Of a size that two cores train all sequence mixers on in an hour or two."""


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """The share of targets that the largest logit (B, L, V) tells; NaN where none is asked for."""
    asked = targets != UNASKED
    right = (logits.argmax(-1) == targets) & asked
    return float(right.sum() / asked.sum()) if bool(asked.any()) else math.nan
