"""Mutated headers, specs, records and locks meet typed errors only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import fuzz_structures, fuzz_words
from tests.fuzz import MAX_GROWTH_BYTES, Target, fuzz, targets

ROOT = Path(__file__).parents[1]


def test_two_thousand_mutations_meet_typed_errors_only() -> None:
    result = fuzz(2000)
    assert result.broken == [] and result.growth_bytes <= MAX_GROWTH_BYTES
    assert result.accepted.total() + result.refused.total() == 2000
    assert all(result.refused[name] for name in targets())


def test_another_error_is_a_finding_that_names_its_case(monkeypatch: pytest.MonkeyPatch) -> None:
    def accept(data: bytes) -> None:
        if b"1" not in data:
            raise KeyError("not typed")

    target = Target([b"1"], lambda rng, data: b"0", accept)
    monkeypatch.setattr("tests.fuzz.targets", lambda: {"lock": target})
    assert fuzz(20).broken == ["--seed 0 --target lock --case 0: KeyError: 'not typed'"]
    monkeypatch.setattr("tests.fuzz.targets", lambda: {"lock": target._replace(seeds=[b"0"])})
    with pytest.raises(KeyError):
        fuzz(20)


@pytest.mark.slow
def test_a_hundred_thousand_mutations_meet_typed_errors_only() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--cases", "100000", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_five_hundred_cases_that_know_their_grammar_meet_typed_errors_only() -> None:
    result = fuzz_structures.run(500)
    assert result.broken == [] and result.growth_bytes <= MAX_GROWTH_BYTES
    assert all(result.accepted[name] + result.refused[name] for name in fuzz_structures.SHARES)
    assert all(result.refused[name] for name in fuzz_structures.SHARES if name != "stored values")
    assert result.accepted["layout"] and result.accepted["program"] and result.accepted["values of a row"]


@pytest.mark.slow
def test_a_hundred_thousand_cases_that_know_their_grammar_meet_typed_errors_only() -> None:
    command = [sys.executable, "-m", "tests.fuzz_structures", "--cases", "100000", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_five_hundred_ill_meant_names_and_texts_meet_typed_errors_only() -> None:
    result = fuzz_words.run(500)
    assert result.broken == [] and result.growth_bytes <= MAX_GROWTH_BYTES
    assert all(result.refused[name] for name in fuzz_words.SHARES)
    assert result.accepted["index"] and result.accepted["metadata"] and result.accepted["rules"]


@pytest.mark.slow
def test_a_hundred_thousand_ill_meant_names_and_texts_meet_typed_errors_only() -> None:
    command = [sys.executable, "-m", "tests.fuzz_words", "--cases", "100000", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
