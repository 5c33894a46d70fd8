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
    count: int, generator: Generator, pairs: int = 16, keys: int = 32, values: int = 16, length: int = 64
) -> tuple[Tensor, Tensor]:
    """Multi-query associative recall (arXiv:2312.04927): pairs of key and value, and behind them keys, any of them, each asked for its value.

    Keys are 0 to `keys` - 1, no two of a sequence alike; values follow them.
    """
    key = torch.rand(count, keys, generator=generator).argsort(1)[:, :pairs]
    value = keys + torch.randint(values, (count, pairs), generator=generator)
    queries = torch.randint(pairs, (count, length - 2 * pairs), generator=generator)
    pairs_in_order = torch.stack([key, value], 2).flatten(1)
    ids = torch.cat([pairs_in_order, key.gather(1, queries)], 1)
    targets = torch.cat([torch.full_like(pairs_in_order, UNASKED), value.gather(1, queries)], 1)
    return ids, targets


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


def induction(count: int, generator: Generator, values: int = 32, length: int = 48) -> tuple[Tensor, Tensor]:
    """Induction heads (arXiv:2209.11895): what stood behind this token when it came first?

    The first half are distinct tokens of 0 to `values` - 1; the second half are the same in another order, each asked for.
    """
    half = length // 2
    first = torch.rand(count, values, generator=generator).argsort(1)[:, :half]
    place = torch.rand(count, half, generator=generator).argsort(1)
    ids = torch.cat([first, first.gather(1, place)], 1)
    return ids, torch.cat([torch.full_like(first, UNASKED), ids.gather(1, place + 1)], 1)


def parity(count: int, generator: Generator, length: int = 64) -> tuple[Tensor, Tensor]:
    """Whether the number of ones so far is odd, at every position (arXiv:2207.02098)."""
    ids = torch.randint(2, (count, length), generator=generator)
    return ids, ids.cumsum(1) % 2


OPEN, CLOSE, FILLING = 10, 14, 15
SHORTEST = 4
"""Tokens of an expression of two digits."""
OPERATORS = (max, min, lambda values: sorted(values)[len(values) // 2], lambda values: sum(values) % 10)
"""MAX, MIN, MEDIAN and SUM modulo 10, as tokens OPEN to OPEN + 3."""


def listops(count: int, generator: Generator, length: int = 48, depth: int = 2, most: int = 4) -> tuple[Tensor, Tensor]:
    """ListOps (arXiv:1804.06028): the value, 0 to 9, of a nested expression such as [MAX 2 9 [MIN 4 7] 0], asked for where a bracket closes.

    Digits are themselves. Expressions stand one behind the other, and filling where the room that is left takes none.
    """
    ids = torch.full((count, length), FILLING)
    targets = torch.full_like(ids, UNASKED)
    for row in range(count):
        tokens: list[int] = []
        answers: list[int] = []
        while length - len(tokens) >= SHORTEST:
            more, values = _expression(generator, depth, most, length - len(tokens))
            tokens, answers = tokens + more, answers + values
        ids[row, : len(tokens)] = torch.tensor(tokens)
        targets[row, : len(answers)] = torch.tensor(answers)
    return ids, targets


def _expression(generator: Generator, depth: int, most: int, room: int) -> tuple[list[int], list[int]]:
    """Tokens of an expression, at most `room`, and the targets at them: its value last, those of brackets within it before."""

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    operator = draw(len(OPERATORS))
    tokens, targets, values = [OPEN + operator], [UNASKED], []
    for _ in range(2 + draw(most - 1)):
        space = room - len(tokens) - 1
        if space < 1:
            break
        if depth > 1 and space >= SHORTEST and draw(3) == 0:
            inner, answers = _expression(generator, depth - 1, most, space)
            values.append(answers[-1])
        else:
            values.append(draw(10))
            inner, answers = [values[-1]], [UNASKED]
        tokens, targets = tokens + inner, targets + answers
    value = int(OPERATORS[operator](values))  # type: ignore[no-untyped-call]
    return [*tokens, CLOSE], [*targets, value]


TASKS = {
    task.name: task
    for task in (
        Task("recall", 48, 64, 1 / 16, "arXiv:2312.04927", recall),
        Task("selective_copying", 10, 32, 1 / 8, "arXiv:2312.00752", partial(selective_copying, values=8, length=32)),
        Task("induction", 32, 48, 1 / 32, "arXiv:2209.11895", induction),
        Task("parity", 2, 32, 1 / 2, "arXiv:2207.02098", partial(parity, length=32)),
        Task("listops", 16, 48, 1 / 10, "arXiv:1804.06028", listops),
    )
}
"""The tasks at a size at which one core trains a small net on one of them in seconds, and its state does not simply hold all pairs."""


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """The share of targets that the largest logit (B, L, V) tells; NaN where none is asked for."""
    questions = targets != UNASKED
    right = (logits.argmax(-1) == targets) & questions
    return float(right.sum() / questions.sum()) if bool(questions.any()) else math.nan
