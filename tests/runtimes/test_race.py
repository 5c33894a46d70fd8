"""Who wins a race, and when it ends, on a clock that the candidates themselves set."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from zoo.runtimes.race import FIRST, LEAST, MOST, Race


class Clock:
    """Time that passes only when a candidate runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: dict[str, int] = {}

    def wall(self) -> float:
        return self.now

    def cpu(self) -> float:
        return self.now

    def wait(self) -> None:
        return None

    def taking(self, name: str, *milliseconds: float) -> Callable[[], None]:
        """A call that takes these milliseconds, one after the other."""
        times: Iterator[float] = itertools.cycle(milliseconds)

        def call() -> None:
            self.calls[name] = self.calls.get(name, 0) + 1
            self.now += next(times) / 1e3

        return call


def raced(seconds: float = 100.0, **times: tuple[float, ...]) -> Race[str]:
    """Candidates and what their calls take, in ms; the first is the baseline."""
    clock = Clock()
    calls = {name: clock.taking(name, *milliseconds) for name, milliseconds in times.items()}
    race: Race[str] = Race(calls, next(iter(calls)), clock, pause_s=0.0)
    race.run(seconds)
    return race


def test_the_fastest_is_found_as_soon_as_it_is_certain() -> None:
    race = raced(torch=(50.0,), other=(30.0,), third=(40.0,))
    assert race.fastest() == "other"
    assert race.rounds == LEAST
    assert race.ratio("torch", "other").median == 50 / 30


def test_a_hopeless_candidate_leaves_after_the_first_rounds_and_the_baseline_stays() -> None:
    race = raced(torch=(100.0,), fast=(10.0,), slow=(16.0,))
    assert len(race.seconds["slow"]) == FIRST
    assert len(race.seconds["torch"]) == len(race.seconds["fast"]) == LEAST


def test_candidates_that_cannot_be_told_apart_are_timed_longest() -> None:
    noise = (9.0, 11.0, 10.0, 12.0, 8.0, 10.5, 9.5)
    race = raced(torch=noise, other=(*noise[3:], *noise[:3]))
    assert 3 * LEAST < race.rounds <= MOST
    assert set(race.ties()) == {"torch", "other"}


def test_candidates_that_are_certainly_as_good_end_the_race() -> None:
    race = raced(torch=(10.0,), other=(10.05,))
    assert race.rounds == LEAST
    assert set(race.ties()) == {"torch", "other"}


def test_a_form_that_is_certainly_slower_by_more_than_a_percent_is_no_tie() -> None:
    assert raced(torch=(10.0,), other=(10.15,)).ties() == ["torch"]


def test_the_time_ends_a_race() -> None:
    race = raced(seconds=2.0, torch=(100.0, 130.0), other=(101.0, 90.0))
    assert FIRST <= race.rounds < LEAST


def test_a_pace_has_its_interval_and_no_more_digits_than_that_carries() -> None:
    pace = raced(torch=(50.0, 51.0, 52.0), other=(30.0,)).pace("torch")
    assert pace.low_ms <= pace.p50_ms <= pace.high_ms
    assert 50 <= pace.p50_ms <= 52 and len(f"{pace.p50_ms:g}") <= 5


def test_a_machine_that_changed_its_pace_gives_no_clean_verdict() -> None:
    race = raced(torch=(50.0,), other=(30.0,))
    race.others = 0.0
    race.seconds["torch"] = [0.05] * 5 + [0.08] * 5
    assert race.pace("torch").verdict == "unstable"
    race.others = 0.2
    assert race.pace("other").verdict == "contended"
