"""From samples to a row: medians, intervals, verdicts, digits."""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec
import pytest

from tests.measure.rows import FACTS, quiet, sample
from zoo.measure.clock import CpuClock, measure
from zoo.measure.latency import Latency, compose, judge, median_interval, quantile, rounded, summarise


def test_a_row_is_the_median_of_processes_with_its_interval_and_its_ratio() -> None:
    row = compose(FACTS, quiet())
    assert (row.p50_ms, row.low_ms, row.high_ms, row.min_ms) == (10.0, 9.8, 10.2, 9.7)
    assert (row.ratio, row.wall_cpu, row.processes, row.samples, row.verdict) == (5.0, 1.0, 5, 15, "clean")


def test_waiting_for_the_processor_is_contention() -> None:
    row = compose(FACTS, [sample([10.0] * 3, waited=1.5) for _ in range(5)])
    assert row.verdict == "contended"
    assert row.reason == "wall time is 1.50 of CPU time, and 1.05 the limit: close other programs"


def test_processes_that_disagree_are_unstable() -> None:
    assert judge([10.0, 10.0, 10.1, 10.0, 13.0], 1.0) == ("unstable", "processes differ by 30%, and 15% is the limit")
    assert judge([10.0] * 4, 1.0) == ("unstable", "4 processes, where 5 are the least")


def test_a_machine_that_is_slower_than_usual_is_contended_though_no_clock_shows_it() -> None:
    row = compose(FACTS, quiet(), usual_anchor_ms=1.6)
    assert row.verdict == "contended" and row.anchor_ms == 2.0
    assert (
        row.reason
        == "the anchor took 1.25 of its usual time, and 1.15 is the limit: this machine was slower than it usually is"
    )
    assert compose(FACTS, quiet(), usual_anchor_ms=1.8).verdict == "clean"


def test_a_gpu_is_not_judged_by_the_time_of_the_cpu() -> None:
    assert summarise([sample([10.0] * 3, waited=9.0)] * 5, gpu=True).verdict == "clean"


@pytest.mark.parametrize(("n", "expected"), [(1, (0, 0)), (5, (0, 4)), (8, (1, 6)), (20, (5, 14))])
def test_the_interval_of_a_median_is_the_narrowest_pair_of_order_statistics(n: int, expected: tuple[int, int]) -> None:
    assert median_interval([float(i) for i in range(n)]) == expected


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    draw = random.Random(0)
    hits = 0
    for _ in range(2000):
        low, high = median_interval(sorted(draw.gauss(0, 1) for _ in range(9)))
        hits += low <= 0 <= high
    assert 0.9 <= hits / 2000 <= 0.98


def test_quantiles_are_values_that_were_seen() -> None:
    assert [quantile([1.0, 2.0, 3.0, 4.0], share) for share in (0.01, 0.5, 0.51, 0.9, 1.0)] == [1.0, 2.0, 3.0, 4.0, 4.0]


@pytest.mark.parametrize(
    ("value", "width", "text"),
    [(12.3456, 0.2, "12.0"), (12.3456, 0.02, "12.3"), (0.123456, 0.0, "0.1235"), (0.0, 0.1, "0.0")],
)
def test_digits_are_those_that_the_interval_carries(value: float, width: float, text: str) -> None:
    assert str(rounded(value, width)) == text


def test_the_id_is_that_of_the_content_and_not_of_its_origin() -> None:
    row = compose(FACTS, quiet())
    assert row.id == msgspec.structs.replace(row, origin="elsewhere.jsonl").id
    assert row.id != msgspec.structs.replace(row, p50_ms=11.0).id
    assert msgspec.json.decode(msgspec.json.encode(row), type=Latency) == row


class FakeClock(CpuClock):
    """A function takes the next of `costs` seconds; the thread works `share` of them."""

    def __init__(self, costs: Any, share: float = 1.0):
        self.costs, self.share, self.now = iter(costs), share, 0.0

    def wall(self) -> float:  # type: ignore[override]
        return self.now

    def cpu(self) -> float:  # type: ignore[override]
        return self.now * self.share

    def call(self) -> None:
        self.now += next(self.costs)


def test_warm_up_goes_on_while_it_pays() -> None:
    clock = FakeClock(itertools.chain([0.5, 0.4, 0.3, 0.2, 0.1, 0.01], itertools.repeat(0.01)))
    timing = measure(clock.call, 2.0, 5, clock)
    assert timing.warm_up == 9
    assert timing.ms == pytest.approx([10.0] * len(timing.ms)) and len(timing.ms) in (200, 201)


def test_fast_functions_are_looped() -> None:
    clock = FakeClock(itertools.repeat(0.0001))
    timing = measure(clock.call, 0.05, 5, clock)
    assert timing.loops == 10 and timing.ms[0] == pytest.approx(0.1)


def test_slow_functions_get_three_samples() -> None:
    clock = FakeClock(itertools.repeat(1.0))
    timing = measure(clock.call, 0.1, 5, clock)
    assert (timing.warm_up, timing.loops, len(timing.ms)) == (2, 1, 3)


def test_a_thread_that_waits_shows_in_its_cpu_time() -> None:
    clock = FakeClock(itertools.repeat(0.01), share=0.5)
    timing = measure(clock.call, 0.1, 5, clock)
    assert sum(timing.ms) / sum(timing.cpu_ms) == pytest.approx(2.0)
