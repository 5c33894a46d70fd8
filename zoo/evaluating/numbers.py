"""Figures of a model that tells numbers of a picture, with their 95 % intervals, each of the bootstrap over pictures.

Of several numbers a figure is the mean of theirs. `mae` and `rmse` have the units of the data, and less is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from zoo.display.rows import Row
from zoo.evaluating.figures import Estimate, bootstrapped

LEAST = 1e-12
"""That a variance counts as at least, so that numbers which are all the same have figures, too."""


class Guesses(NamedTuple):
    """Of the pictures that could be read where they stand in the data (N,); the numbers of the data and what was answered, (N, K) each."""

    positions: np.ndarray
    truth: np.ndarray
    answers: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """(N,): squared, over the variance of each number, averaged over numbers."""
        spread = np.maximum(self.truth.var(0), LEAST)
        return ((self.answers - self.truth) ** 2 / spread).mean(1)  # type: ignore[no-any-return]


class NumberScore(Row, frozen=True):
    """One number, in its units."""

    label: str
    pictures: int
    figures: dict[str, Estimate]


def r2(guesses: Guesses) -> Estimate:
    """1 - sum (y - f)^2 / sum (y - mean y)^2."""
    truth, squares = guesses.truth, (guesses.truth - guesses.answers) ** 2

    def figure(weights: np.ndarray) -> np.ndarray:
        spread = weights @ truth**2 - (weights @ truth) ** 2 / len(truth)
        return (1 - (weights @ squares) / np.maximum(spread, LEAST)).mean(-1)

    return bootstrapped(len(truth), figure)


def mae(guesses: Guesses) -> Estimate:
    """mean |y - f|."""
    apart = np.abs(guesses.truth - guesses.answers)
    return bootstrapped(len(apart), lambda weights: (weights @ apart / len(apart)).mean(-1))


def rmse(guesses: Guesses) -> Estimate:
    """sqrt(mean (y - f)^2)."""
    squares = (guesses.truth - guesses.answers) ** 2
    return bootstrapped(len(squares), lambda weights: np.sqrt(weights @ squares / len(squares)).mean(-1))


def correlation(guesses: Guesses) -> Estimate:
    """Pearson's, of y and f; 0 where one of them is the same in all pictures."""
    n = len(guesses.truth)
    y, f = (column - column.mean(0) for column in (guesses.truth, guesses.answers))

    def figure(weights: np.ndarray) -> np.ndarray:
        sums = weights @ y, weights @ f
        shared = weights @ (y * f) - sums[0] * sums[1] / n
        spreads = [weights @ values**2 - sum_**2 / n for values, sum_ in zip((y, f), sums, strict=True)]
        return (shared / np.sqrt(np.maximum(spreads[0], LEAST) * np.maximum(spreads[1], LEAST))).mean(-1)

    return bootstrapped(n, figure)


METRICS: dict[str, Callable[[Guesses], Estimate]] = {"r2": r2, "mae": mae, "rmse": rmse, "correlation": correlation}


def per_number(guesses: Guesses, labels: Sequence[str]) -> list[NumberScore]:
    """The numbers of the data, in its order."""
    rows = []
    for i, label in enumerate(labels):
        own = guesses._replace(truth=guesses.truth[:, i : i + 1], answers=guesses.answers[:, i : i + 1])
        rows.append(NumberScore(label, len(own.truth), {name: metric(own) for name, metric in METRICS.items()}))
    return rows
