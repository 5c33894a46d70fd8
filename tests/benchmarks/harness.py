"""Comparing speeds on a machine that is not ours alone: interleaved rounds, ratios within a round, a verdict on the company.

Milliseconds of one run mean little on a shared machine; the ratio of two candidates measured seconds apart means more, and
the median of many such ratios can be trusted. What the neighbours took of the processor is read from the kernel.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from zoo.measure.company import BUSY, Company

Work = Callable[[], object]
SLICE = 0.04
"""Seconds for which a candidate runs in one round: long against the clock, short against a neighbour's burst."""


class Ratio(NamedTuple):
    """`median` of baseline time over candidate time (above 1: the candidate is faster) and a 95 % interval of it."""

    median: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Median seconds per call of each candidate, its ratio to the baseline, and the share that others took meanwhile."""

    seconds: dict[str, float]
    ratios: dict[str, Ratio]
    others: float

    @property
    def verdict(self) -> str:
        return "clean" if self.others <= BUSY else "contended"


def compare(candidates: Mapping[str, Work], rounds: int = 15, seed: int = 0, pause: float = 0.0) -> Comparison:
    """Times every candidate once per round, in a new order each round. The first is the baseline.

    pause: seconds before each turn, and behind them a call that does not count: for candidates whose threads spin on when they are done."""
    loops = {name: _calibrated(work) for name, work in candidates.items()}
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    order, draw = list(candidates), random.Random(seed)
    company = Company()
    for _ in range(rounds):
        draw.shuffle(order)
        for name in order:
            if pause:
                time.sleep(pause)
                candidates[name]()
            samples[name].append(_once(candidates[name], loops[name]))
    baseline = samples[next(iter(candidates))]
    ratios = {name: ratio(baseline, times) for name, times in samples.items()}
    return Comparison({name: statistics.median(times) for name, times in samples.items()}, ratios, company.share())


def ratio(baseline: list[float], times: list[float]) -> Ratio:
    """Median of the rounds' ratios, with the order statistics that hold the median in 95 of 100 cases."""
    values = sorted(b / t for b, t in zip(baseline, times, strict=True))
    reach = int(0.98 * len(values) ** 0.5)
    middle = len(values) // 2
    low, high = values[max(0, middle - reach)], values[min(len(values) - 1, middle + reach)]
    return Ratio(statistics.median(values), low, high)


def _once(work: Work, loops: int) -> float:
    start = time.perf_counter()
    for _ in range(loops):
        work()
    return (time.perf_counter() - start) / loops


def _calibrated(work: Work) -> int:
    """Calls that fill a slice, after a warm-up."""
    work()
    seconds = min(_once(work, 1) for _ in range(3))
    return max(1, round(SLICE / max(seconds, 1e-9)))
