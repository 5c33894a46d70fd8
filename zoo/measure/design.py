"""Which models to measure next: those that tell most of all that is asked about, for the time that they take."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Container, Iterable, Sequence
from typing import TYPE_CHECKING

from zoo.measure.latency_model import Law, Seen, Subject, deviations

if TYPE_CHECKING:
    import numpy as np

GLANCE = 0.04
"""Standard deviation of log ms of one process's sample."""
TOGETHER = 8
"""Models that one process times; then the law is asked anew which tell most."""
START_SECONDS, PASSES = 2.0, 12
"""What a model costs to be timed, until that is known here: its building and its part in the start of a process, and passes."""

Look = Callable[[Sequence[Subject]], Iterable[tuple[Subject, Seen | None]]]
"""Times subjects one after the other; None stands for one that cannot be timed."""


def explored(
    known: Sequence[Seen],
    asked: Sequence[Subject],
    device: str,
    look: Look,
    left: Callable[[], float],
    untimed: Container[str] = (),
) -> list[Seen]:
    """What was known, and what was seen on the device while there were seconds `left`: a few subjects at a time, those that then tell
    most. Each is timed once, so a time that is long enough sees all but the models whose names are in `untimed`."""
    seen, beyond = list(known), [START_SECONDS]
    done = {(one.subject.digest, one.subject.form) for one in seen if one.device == device}
    hidden = {one.digest for one in asked if one.name in untimed}  # a model may have two names
    done |= {(one.digest, one.form) for one in asked if one.digest in hidden}
    while left() > 0:
        means, covariance = Law(seen, device).predict(asked)
        slow = [mean + deviation for mean, deviation in zip(means, deviations(covariance), strict=True)]
        start = statistics.median(beyond[-20:])
        seconds = [
            math.inf if (one.digest, one.form) in done else start + PASSES * math.exp(log_ms) / 1e3
            for one, log_ms in zip(asked, slow, strict=True)
        ]
        picked = [asked[i] for i in chosen(covariance, seconds, GLANCE, left(), TOGETHER)]
        if not picked:
            break
        before = left()
        for subject, found in look(picked):
            done.add((subject.digest, subject.form))
            if found is not None:
                seen.append(found)
                beyond.append(max(0.1, before - left() - PASSES * found.ms / 1e3))
            before = left()
            if before <= 0:
                break
    return seen


def chosen(covariance: np.ndarray, seconds: Sequence[float], noise: float, left: float, most: int) -> list[int]:
    """Indices in the order of their worth, while there is time left, and at most so many.

    Measuring model i with variance n^2 lowers the variance of all by sum_j C_ij^2 / (C_ii + n^2) in all; the one with the largest
    fall for each second is taken, and C becomes what would then be known (a greedy A-optimal design).
    """
    import numpy as np

    covariance, costs = covariance.copy(), np.asarray(seconds, dtype=float)
    indices: list[int] = []
    while len(indices) < most:
        variances = np.diag(covariance) + noise**2
        worth = (covariance**2).sum(0) / variances / costs
        worth[indices] = 0.0
        worth[costs > left] = 0.0
        best = int(np.argmax(worth))
        if worth[best] <= 0.0:
            break
        indices.append(best)
        left -= costs[best]
        column = covariance[:, best].copy()
        covariance -= np.outer(column, column) / variances[best]
    return indices
