"""Comparing speeds on a machine that is not ours alone: interleaved rounds, ratios within a round, a verdict on the company.

Milliseconds of one run mean little on a shared machine; the ratio of two candidates measured seconds apart means more, and
the median of many such ratios can be trusted. What the neighbours took of the processor is read from the kernel.
"""

from __future__ import annotations

import os
import pathlib
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

Work = Callable[[], object]
BUSY = 0.08
"""Share of the machine taken by others above which a run counts as disturbed."""
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


def compare(candidates: Mapping[str, Work], rounds: int = 15, seed: int = 0) -> Comparison:
    """Times every candidate once per round, in a new order each round. The first is the baseline."""
    loops = {name: _calibrated(work) for name, work in candidates.items()}
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    order, draw = list(candidates), random.Random(seed)
    company = Company()
    for _ in range(rounds):
        draw.shuffle(order)
        for name in order:
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


class Company:
    """What other processes take of the machine, between its making and `share()`; NaN where the kernel does not tell."""

    def __init__(self) -> None:
        self.start = self._busy(), self._own(), time.perf_counter()

    def share(self) -> float:
        busy, own, since = self.start
        capacity = (time.perf_counter() - since) * (os.cpu_count() or 1)
        return max(0.0, (self._busy() - busy - (self._own() - own)) / capacity)

    @staticmethod
    def _busy() -> float:
        """Seconds of work that all processors have done, without idling and waiting for disks."""
        try:
            fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        except (OSError, ValueError):
            return float("nan")
        user, nice, system, _, _, irq, softirq, steal = fields[:8]
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _own() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system
