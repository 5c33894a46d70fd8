"""Whether two blocks can be told apart: differences between runs of the same seed, their interval, and what may be said."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from zoo.errors import InputError, Problem
from zoo.weights.stats import Verdict

LEVEL = 0.95


class Difference(NamedTuple):
    """The difference of the block under study from another: its mean over seeds, and an interval that holds for all comparisons of a study at once."""

    mean: float
    low: float
    high: float
    verdict: Verdict


def difference(own: Sequence[float], other: Sequence[float], comparisons: int = 1) -> Difference:
    """Scores of the same seeds, more being better: Student's interval of their paired differences, at 1 - 0.05 / comparisons.

    Raises ValueError for fewer than two pairs: one run says nothing of the next.
    """
    if len(own) != len(other) or len(own) < 2:
        raise ValueError(f"at least two runs of the same seeds are compared; found {len(own)} and {len(other)}")
    pairs = [a - b for a, b in zip(own, other, strict=True)]
    mean = statistics.fmean(pairs)
    reach = _quantile(len(pairs) - 1, comparisons) * statistics.stdev(pairs) / len(pairs) ** 0.5
    low, high = mean - reach, mean + reach
    return Difference(mean, low, high, "better" if low > 0 else "worse" if high < 0 else "not distinguishable")


def _quantile(freedom: int, comparisons: int) -> float:
    return float(student().ppf(1 - (1 - LEVEL) / comparisons / 2, freedom))


def student() -> Any:
    """Student's distribution. Raises InputError where scipy is not installed."""
    try:
        from scipy.stats import t
    except ImportError:
        problem = Problem("", "scipy, for the intervals", "no such package", next='pip install "blockzoo[train]"')
        raise InputError("study", problem) from None
    return t
