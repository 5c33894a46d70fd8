"""What may be said of two blocks."""

from __future__ import annotations

import random
import sys

import pytest

from zoo.errors import InputError
from zoo.training.ablation.significance import difference
from zoo.training.ablation.study import study


def test_the_interval_is_students() -> None:
    # paired differences 1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.302653
    found = difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.high - found.mean == pytest.approx(4.302653 / 3**0.5, rel=1e-5)
    assert found.verdict == "not distinguishable"


def test_more_comparisons_widen_the_interval() -> None:
    own, other = [2.0, 4.0, 6.0, 5.0], [1.0, 2.0, 3.0, 4.0]
    assert difference(own, other, 6).high > difference(own, other).high


def test_clear_differences_have_a_direction() -> None:
    own, other = [0.91, 0.92, 0.90, 0.93, 0.91], [0.80, 0.82, 0.79, 0.83, 0.80]
    assert difference(own, other).verdict == "better"
    assert difference(other, own).verdict == "worse"


def test_runs_of_one_block_are_rarely_told_apart() -> None:
    draw = random.Random(0)
    told = sum(
        difference([draw.gauss(0, 1) for _ in range(5)], [draw.gauss(0, 1) for _ in range(5)]).verdict
        != "not distinguishable"
        for _ in range(2000)
    )
    assert 60 <= told <= 140  # one in twenty


def test_a_single_run_has_no_verdict() -> None:
    with pytest.raises(ValueError, match="at least two runs of the same seeds are compared; found 1 and 1"):
        difference([1.0], [2.0])


def test_without_scipy_a_study_says_so_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(InputError) as caught:
        study("pooling", ["convformer_nano"])
    (problem,) = caught.value.problems
    assert problem.expected == "scipy, for the intervals" and "blockzoo[train]" in problem.next
