"""Two models on the same pictures: which is right more often, and whether the pictures can tell.

McNemar's test asks only the pictures on which one is right and the other wrong, so it sees differences that lie within the intervals of
both figures. Where the models are equal each such picture is a fair coin.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from zoo.display.rows import Row
from zoo.errors import InputError, Problem
from zoo.evaluating.figures import Answers
from zoo.evaluating.numbers import Guesses
from zoo.evaluating.several import Marks
from zoo.weights.stats import Z95, Verdict

LEVEL = 0.05
Known = Answers | Marks | Guesses
"""What is kept of a model's answers."""


class Pair(Row, frozen=True):
    """`model` against `other`: pictures that only the one, and only the other, has right, or of numbers on which it is nearer; the
    difference of `metric` with its 95 % interval, and the exact probability of so uneven a split of equal models. The verdict is at 5 %,
    shared among all comparisons of an evaluation."""

    model: str
    other: str
    data: str
    pictures: int
    only_model: int
    only_other: int
    difference: float
    low: float
    high: float
    p: float
    verdict: Verdict
    metric: str = "top1"


def paired(
    names: tuple[str, str], data: str, one: Known, other: Known, comparisons: int = 1, metric: str = "top1"
) -> Pair:  # fmt: skip
    """On the pictures that both have seen: d = (b - c) / n +- z sqrt(b + c - (b - c)^2 / n) / n, of b and c that only one has right."""
    _, mine, theirs = np.intersect1d(one.positions, other.positions, assume_unique=True, return_indices=True)
    if isinstance(one, Guesses):
        errors, others = one.errors[mine], other.errors[theirs]  # type: ignore[union-attr]
        n, b, c = len(mine), int((errors < others).sum()), int((others < errors).sum())
    else:
        right, others = one.right[mine], other.right[theirs]  # type: ignore[union-attr]
        n, b, c = len(mine), int((right & ~others).sum()), int((others & ~right).sum())
    mean, reach = (b - c) / n, Z95 * sqrt(b + c - (b - c) ** 2 / n) / n
    p = float(_binomial()(b, b + c).pvalue) if b + c else 1.0
    verdict: Verdict = "not distinguishable" if p >= LEVEL / comparisons else "better" if b > c else "worse"
    return Pair(*names, data, n, b, c, mean, max(-1.0, mean - reach), min(1.0, mean + reach), p, verdict, metric)


def _binomial() -> Any:
    """scipy's exact test. Raises InputError where scipy is not installed."""
    try:
        from scipy.stats import binomtest
    except ImportError:
        problem = Problem("", "scipy, for comparisons", "no such package", next='pip install "blockzoo[train]"')
        raise InputError("evaluate", problem) from None
    return binomtest
