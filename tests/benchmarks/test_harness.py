"""The arithmetic of comparisons; the speeds themselves are no tests."""

from __future__ import annotations

from tests.benchmarks.__main__ import markdown
from tests.benchmarks.harness import BUSY, Comparison, compare, ratio


def test_a_ratio_is_the_median_of_the_rounds_and_one_disturbed_round_does_not_move_it() -> None:
    baseline, times = [2.0] * 14 + [40.0], [1.0] * 15
    assert ratio(baseline, times) == (2.0, 2.0, 2.0)


def test_a_change_of_pace_between_rounds_cancels() -> None:
    pace = [1.0, 3.0, 2.0, 5.0, 1.0]
    found = ratio([2 * p for p in pace], [p / 2 for p in pace])
    assert found == (4.0, 4.0, 4.0)


def test_every_candidate_runs_and_the_first_is_the_baseline() -> None:
    calls: dict[str, int] = {"a": 0, "b": 0}

    def work(name: str) -> None:
        calls[name] += 1
        sum(range(20_000))

    found = compare({"a": lambda: work("a"), "b": lambda: work("b")}, rounds=3)
    assert min(calls.values()) > 3
    assert found.ratios["a"] == (1.0, 1.0, 1.0)
    assert set(found.seconds) == {"a", "b"}


def test_a_machine_that_others_use_gives_no_clean_verdict() -> None:
    assert Comparison({}, {}, BUSY / 2).verdict == "clean"
    assert Comparison({}, {}, 2 * BUSY).verdict == "contended"
    assert Comparison({}, {}, float("nan")).verdict == "contended"


def test_budgets_lie_between_the_fastest_and_the_slowest_model() -> None:
    from tests.benchmarks.choosing import budgets

    found = budgets({"a": 2.0, "b": 200.0})
    assert len(found) == 200 and 2.0 <= min(found) < 4.0 and 100.0 < max(found) <= 200.0


def test_rows_that_were_not_measured_stay_in_the_table() -> None:
    def of(ms: float) -> dict[str, object]:
        seconds, ratios = {"timm": ms / 1e3, "zoo": ms / 2e3}, {"timm": (1.0, 1.0, 1.0), "zoo": (2.0, 1.9, 2.1)}
        return {"verdict": "clean", "seconds": seconds, "ratios": ratios}

    first = markdown({"net a": of(10.0), "net b": of(20.0)}, "1 thread")
    second = markdown({"net b": of(30.0), "net c": of(40.0)}, "1 thread", first)
    rows = [line for line in second.splitlines() if line.startswith("| net")]
    assert [row.split(" | ")[0][2:] for row in rows] == ["net a", "net b", "net c"]
    assert "10.0 ms" in rows[0] and "30.0 ms" in rows[1]
    assert markdown({}, "1 thread", second) == second
