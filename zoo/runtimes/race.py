"""Candidates timed in turns in one process, until the fastest is known or the time is over.

What disturbs one candidate of a round disturbs its neighbours, so they are compared round by round, as ratios. Before each turn there is
a pause, and a call that does not count: the threads of the runtime before it spin on for some time, and its weights fill the caches.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Generic, NamedTuple, TypeVar

from zoo.measure.clock import Clock, CpuClock
from zoo.measure.company import BUSY, Company
from zoo.measure.latency import MAX_SPREAD, Verdict, median_interval, rounded

SLICE_S = 0.04
"""How long a turn lasts at least: long against the clock, short against a neighbour's burst."""
PAUSE_S = 0.06
"""Within it the threads of all runtimes stop spinning: ONNX Runtime's take longest, up to 2^20 pauses of the processor."""
FIRST = 3
"""Rounds after which hopeless candidates leave."""
HOPELESS = 1.5
"""Times the fastest candidate's best turn that a hopeless one's best turn takes."""
LEAST, MOST = 9, 41
"""Rounds of those that stay."""
CLEARLY = 1.1
"""Times the fastest candidate's time that one takes at least, by its interval, which need not be timed any longer."""
TIE = 1.02
"""Up to so many times the fastest candidate's time is as good."""

K = TypeVar("K", bound=Hashable)


class Ratio(NamedTuple):
    """The median of the rounds' ratios, and an interval that holds the true median nine times in ten."""

    median: float
    low: float
    high: float


class Pace(NamedTuple):
    """Milliseconds of one call: the median of the turns, its interval, and whether it can be trusted."""

    p50_ms: float
    low_ms: float
    high_ms: float
    verdict: Verdict


class Race(Generic[K]):
    """Calls under keys; `baseline` is timed in every round, whatever it takes."""

    def __init__(
        self, calls: Mapping[K, Callable[[], object]], baseline: K, clock: Clock | None = None, pause_s: float = PAUSE_S
    ):
        self.calls, self.baseline = dict(calls), baseline
        self.clock: Clock = clock or CpuClock()
        self.pause_s = pause_s
        self.seconds: dict[K, list[float]] = {key: [] for key in calls}
        self.rounds = 0
        self.others = 0.0
        """Share of the machine that other programs took in the race."""

    def run(self, seconds: float, progress: Callable[[str], None] = lambda note: None) -> None:
        """Times all, drops the hopeless after some rounds, and goes on with the others until it is known which is the fastest."""
        end, company = self.clock.wall() + seconds, Company()
        running = list(self.calls)
        while running and self.rounds < MOST and (self.rounds < FIRST or self.clock.wall() < end):
            self._round(running)
            progress(f"round {self.rounds}, {len(running)} candidates")
            if self.rounds == FIRST:
                running = self._hopeful()
            if self.rounds >= LEAST:
                running = [
                    key for key in running if key == self.baseline or self.ratio(key, self.fastest()).low <= CLEARLY
                ]
                if self._is_decided(running):
                    break
        self.others = company.share()

    def fastest(self, among: Collection[K] = ()) -> K:
        """The candidate whose median ratio to the baseline is least; of all, or of some."""
        return min(among or self.calls, key=lambda key: self.ratio(key, self.baseline).median)

    def ratio(self, key: K, other: K) -> Ratio:
        """Time of `key` over that of `other`, in the rounds in which both ran: 2 is twice as slow."""
        pairs = zip(
            self.seconds[key], self.seconds[other], strict=False
        )  # who leaves early has run in the first rounds
        ratios = sorted(own / theirs for own, theirs in pairs)
        return Ratio(statistics.median(ratios), *median_interval(ratios))

    def ties(self, among: Collection[K] = ()) -> list[K]:
        """The fastest, and those that are as good: within half of `TIE`, or within all of it where they may as well be the faster."""
        best, half = self.fastest(among), 1 + (TIE - 1) / 2
        ratios = {key: self.ratio(key, best) for key in among or self.calls if key != best}
        close = [key for key, (median, low, _) in ratios.items() if median <= half or (median <= TIE and low <= 1)]
        return [best, *close]

    def pace(self, key: K) -> Pace:
        """What one call takes."""
        times = [1e3 * seconds for seconds in self.seconds[key]]
        low, high = median_interval(sorted(times))
        p50 = statistics.median(times)
        width = (high - low) / p50
        return Pace(rounded(p50, width), rounded(low, width), rounded(high, width), self._verdict(times))

    def _verdict(self, times: list[float]) -> Verdict:
        """`contended` where other programs took the machine, `unstable` where stretches of the race differ or there were too few."""
        if self.others > BUSY:
            return "contended"
        size = len(times) // 5
        if not size:
            return "unstable"
        stretches = [statistics.median(times[i * size : (i + 1) * size]) for i in range(5)]
        return "unstable" if max(stretches) - min(stretches) > MAX_SPREAD * statistics.median(stretches) else "clean"

    def _round(self, running: list[K]) -> None:
        """One turn of each, in an order that turns."""
        for step in range(len(running)):
            key = running[(self.rounds + step) % len(running)]
            self.seconds[key].append(self._turn(self.calls[key]))
        self.rounds += 1

    def _turn(self, call: Callable[[], object]) -> float:
        """The median call of a slice, in seconds, behind a pause and one call that does not count."""
        time.sleep(self.pause_s)
        call()
        times: list[float] = []
        end = self.clock.wall() + SLICE_S
        while not times or self.clock.wall() < end:
            start = self.clock.wall()
            call()
            times.append(self.clock.wall() - start)
        return statistics.median(times)

    def _hopeful(self) -> list[K]:
        best = {key: min(times) for key, times in self.seconds.items()}
        return [key for key in self.calls if key == self.baseline or best[key] <= HOPELESS * min(best.values())]

    def _is_decided(self, running: list[K]) -> bool:
        """Whether each of the others is certainly slower than the fastest, or certainly as good."""
        best = self.fastest()
        ratios = [self.ratio(key, best) for key in running if key != best]
        return all(ratio.low > TIE or 1 / TIE <= ratio.low <= ratio.high <= TIE for ratio in ratios)
