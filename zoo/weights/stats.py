"""How sure a counted accuracy is."""

from __future__ import annotations

from math import sqrt
from typing import Literal

Verdict = Literal["better", "worse", "not distinguishable"]
"""What may be said of two figures."""
Z95 = 1.959963984540054  # the 97.5 % point of the standard normal distribution


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share counted as `correct` of `n`, as fractions in [0, 1].

    centre +- margin with p = correct / n, centre = (p + z^2 / 2n) / (1 + z^2 / n) and
    margin = z * sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n).
    Unlike p +- z * sqrt(p (1 - p) / n) it never has width zero and never leaves [0, 1]. Source: E. B. Wilson, 1927.
    Raises ValueError unless 0 <= correct <= n and n >= 1."""
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"expected 0 <= correct <= n and n >= 1; found correct = {correct}, n = {n}")
    share, weight = correct / n, Z95**2 / n
    centre = (share + weight / 2) / (1 + weight)
    margin = Z95 * sqrt(share * (1 - share) / n + weight / (4 * n)) / (1 + weight)
    low = 0.0 if correct == 0 else centre - margin  # exact ends; rounding would leave 1e-17
    high = 1.0 if correct == n else centre + margin
    return low, high
