"""A calibration without a clock: what is measured is looked up, and takes the time on a clock of its own that it would have taken."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from zoo.measure.coverage import checked
from zoo.measure.design import GLANCE, explored
from zoo.measure.latency_model import Law, Seen, Subject

BUILDING = 2.0
"""Seconds for a model to be built and its part in a process's start."""
FAMILIES, MODELS = 12, 30
"""That are hidden: predicted and never measured."""


class Outcome(NamedTuple):
    """What comes out for the hidden models: shares by which predictions are off, and the share of times that lie in their ranges; how many models
    were measured, and what the calibration itself says of its median error."""

    median: float
    p95: float
    covered: float
    measured: int
    claimed: float


def simulate(
    asked: Sequence[Subject],
    times: Callable[[Subject], float],
    elsewhere: Iterable[Seen],
    minutes: float,
    seed: int = 0,
    noise: float = 0.03,
) -> Outcome:
    """Calibrates a device "here" of which `times` are the truth, then compares."""
    draw, spent = random.Random(seed), [0.0]
    untimed = hidden(asked, draw)

    def look(picked: Sequence[Subject]) -> Iterable[tuple[Subject, Seen | None]]:
        for one in picked:
            spent[0] += BUILDING + 12 * times(one) / 1e3
            yield one, Seen(one, "here", times(one) * math.exp(draw.gauss(0, noise)), GLANCE)

    seen = explored(list(elsewhere), asked, "here", look, lambda: 60 * minutes - spent[0], untimed)
    law = Law(seen, "here")
    errors = checked(law)
    assert errors is not None
    strangers = [one for one in asked if one.name in untimed]
    means, covariance = law.predict(strangers)
    off = np.log([times(one) for one in strangers]) - means
    reach = errors.width * np.hypot(np.sqrt(np.maximum(covariance.diagonal(), 0)), GLANCE)
    shares = np.abs(np.expm1(-off))
    return Outcome(
        float(np.median(shares)), float(np.quantile(shares, 0.95)), float(np.mean(np.abs(off) <= reach)),
        len({one.subject.name for one in seen if one.device == "here"}), errors.median,
    )  # fmt: skip


def hidden(asked: Sequence[Subject], draw: random.Random) -> set[str]:
    """Names of models of some families, at random; of each family one at least is left."""
    members: dict[str, set[str]] = {}
    for one in asked:
        members.setdefault(one.family, set()).add(one.name)
    families = draw.sample(sorted(family for family, names in members.items() if len(names) >= 2), FAMILIES)
    names = [draw.sample(sorted(members[family]), len(members[family]) - 1) for family in families]
    turns = sorted((turn, name) for own in names for turn, name in enumerate(own))
    return {name for _, name in turns[:MODELS]}
