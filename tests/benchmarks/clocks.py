"""What our own instruments cost: the timing loop against a bare loop, and a profile of a ViT-B."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from tests.benchmarks.harness import ratio
from zoo.measure.clock import measure
from zoo.measure.profile import profile

SECONDS = 0.25


def report(rounds: int = 15) -> list[str]:
    """Lines of text: medians of a function of about 5 ms in turns, by hand and by us; the rest of our time; a profile's time."""
    work = _work()
    bare, ours, rest = [], [], []
    for _ in range(rounds):
        bare.append(_bare(work))
        start = time.perf_counter()
        timing = measure(work, SECONDS)
        spent = 1e3 * (time.perf_counter() - start)
        ours.append(statistics.median(timing.ms))
        rest.append(1 - (sum(timing.ms) + timing.warm_up * ours[-1]) / spent)
    found = ratio(ours, bare)
    profiles = [_seconds(lambda: profile("vit_base_patch16_224", details=False)) for _ in range(max(3, rounds // 3))]
    return [
        f"a function of {statistics.median(bare):.2f} ms: measured by us it takes {found.median:.4f} of its time in a bare loop "
        f"({found.low:.4f} to {found.high:.4f}); {statistics.median(rest):.2%} of a measurement are neither samples nor warm-up",
        f"zoo.profile of a ViT-B: {1e3 * statistics.median(profiles):.0f} ms",
    ]


def _work() -> Callable[[], object]:
    """A matrix product that takes about 5 ms here."""
    side = 256
    while True:
        a = torch.randn(side, side)
        if min(_seconds(lambda a=a: a @ a) for _ in range(5)) >= 0.005:  # type: ignore[misc]
            return lambda: a @ a
        side += 64


def _bare(work: Callable[[], object]) -> float:
    """Milliseconds: the median, of as many samples as we take, in the least code that measures."""
    times = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
