"""From the times of a model's pieces to the time of the model.

A piece alone finds its weights in the cache; within a model it does not, and between two pieces Python runs. So
t = scale * sum of the pieces + each * their number + per_megabyte * weights, with three numbers per device and runtime that are
fitted to measured models: to those of one input and form, where enough were measured, else to all. How far off that is, is found by
leaving one family after the other out of the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    import numpy as np  # predictions need none of it

ENOUGH = 16
"""Measured models of a group for a law of its own: three numbers are fitted."""
ROUNDS = 20
"""Of weighting: what is far off counts less each time."""


class Load(NamedTuple):
    """Of one model: the sum of its pieces' times in ms, their number, their weights in MB."""

    sum_ms: float
    pieces: int
    megabytes: float


class Law(msgspec.Struct, frozen=True):
    """Milliseconds; none is negative."""

    scale: float = 1.0
    each: float = 0.0
    per_megabyte: float = 0.0

    def ms(self, load: Load) -> float:
        return self.scale * load.sum_ms + self.each * load.pieces + self.per_megabyte * load.megabytes


class Laws(msgspec.Struct, frozen=True):
    """One for all models, and one for each group of them of which enough were measured."""

    general: Law = Law()
    groups: dict[str, Law] = {}

    def of(self, group: str) -> Law:
        return self.groups.get(group, self.general)


class Errors(msgspec.Struct, frozen=True):
    """Of predictions for families that the law was not fitted to. `low` and `high` are the factors by which nine in ten measured
    times lie from their prediction."""

    median: float
    p95: float
    low: float
    high: float
    models: int
    families: int


class Seen(NamedTuple):
    """A model that was measured. A group is what enters, images or tokens, and a form."""

    family: str
    load: Load
    ms: float
    group: str = ""


def fit_groups(seen: Sequence[Seen]) -> Laws:
    """A law for all, and one for each group with enough models of three families at least."""
    members: dict[str, list[Seen]] = {}
    for one in seen:
        members.setdefault(one.group, []).append(one)
    told = {
        group: own for group, own in members.items() if len(own) >= ENOUGH and len({one.family for one in own}) >= 3
    }
    return Laws(fit(seen), {group: fit(own) for group, own in told.items()})


def fit(seen: Sequence[Seen]) -> Law:
    """The law with the smallest sum of absolute relative errors, by reweighted least squares."""
    import numpy as np

    features = np.array([one.load for one in seen]) / np.array([[one.ms] for one in seen])
    weights = np.ones(len(seen))
    numbers = np.array([1.0, 0.0, 0.0])
    for _ in range(ROUNDS):
        numbers = _nonnegative(features * weights[:, None], weights)
        weights = np.maximum(np.abs(features @ numbers - 1), 0.01) ** -0.5
    return Law(*map(float, numbers))


def _nonnegative(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Least squares without negative numbers: of all choices of features the one that fits best."""
    import numpy as np

    best, least = np.zeros(features.shape[1]), np.inf
    for count in range(1, features.shape[1] + 1):
        for chosen in combinations(range(features.shape[1]), count):
            numbers = np.linalg.lstsq(features[:, chosen], targets, rcond=None)[0]
            error = float(np.sum((features[:, chosen] @ numbers - targets) ** 2))
            if (numbers >= 0).all() and error < least:
                best, least = np.zeros(features.shape[1]), error
                best[list(chosen)] = numbers
    return best


def cross_validated(seen: Sequence[Seen]) -> Errors | None:
    """Errors when each family in turn is predicted by a law fitted to the others; None with fewer than three families."""
    import numpy as np

    families = sorted({one.family for one in seen})
    if len(families) < 3:
        return None
    ratios = []
    for family in families:
        laws = fit_groups([one for one in seen if one.family != family])
        ratios += [one.ms / laws.of(one.group).ms(one.load) for one in seen if one.family == family]
    off = np.abs(1 / np.array(ratios) - 1)
    low, high = np.quantile(ratios, [0.05, 0.95])
    return Errors(
        float(np.median(off)), float(np.quantile(off, 0.95)), float(low), float(high), len(ratios), len(families)
    )
