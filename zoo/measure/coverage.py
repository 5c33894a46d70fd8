"""How far off predictions are for models that the law was not fitted to, and the ranges that hold nine in ten of those."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import numpy as np

    from zoo.measure.latency_model import Law

LEAST = 3
"""Families that must be measured here before anything is claimed."""
SHARE = 0.9
"""The share of measured times that lie in their ranges."""
NORMAL = 1.645
"""Standard deviations that would hold so many if all were as the law thinks: ranges are widened, never narrowed."""


class Errors(msgspec.Struct, frozen=True):
    """How good predictions are for families that the law was not fitted to: shares by which they are off, in the median and at the 95th
    percentile. `width` is how many standard deviations on both sides hold nine in ten of the times that were measured."""

    median: float
    p95: float
    width: float
    models: int
    families: int


def checked(law: Law) -> Errors | None:
    """Each family in turn, and then each model, is predicted from all that was seen but its own measurements on this device.

    The errors are those of families left out; the width is that of the worse of both. None with fewer than `LEAST` families.
    """
    import numpy as np

    here = [i for i, sample in enumerate(law.seen) if sample.device == law.device]
    families, names = _groups(law, here, "family"), _groups(law, here, "name")
    if len(families) < LEAST:
        return None
    strange = [law.left_out(group) for group in families]
    related = [law.left_out(group) for group in names]
    off = np.abs(np.expm1(-np.concatenate([errors for errors, _ in strange])))
    levels = [
        _level(np.concatenate([np.abs(errors) / deviations for errors, deviations in some]))
        for some in (strange, related)
    ]
    width = max(NORMAL, *levels)
    return Errors(float(np.median(off)), float(np.quantile(off, 0.95)), width, len(names), len(families))


def _groups(law: Law, here: Sequence[int], what: str) -> list[list[int]]:
    members: dict[str, list[int]] = {}
    for i in here:
        members.setdefault(getattr(law.seen[i].subject, what), []).append(i)
    return list(members.values())


def _level(deviations: np.ndarray) -> float:
    """The smallest width that would hold nine in ten of one more as well: the ceil(0.9 (n + 1))-th (Vovk's conformal bound)."""
    ordered = sorted(map(float, deviations))
    place = math.ceil(SHARE * (len(ordered) + 1))
    return ordered[place - 1] if place <= len(ordered) else 1.2 * ordered[-1]
