"""The core's own models against every check of the kit: small ones always, all of them under `slow`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.sampled import STAND_FOR_ALL
from zoo import catalog
from zoo.testing.models import CHECKS, run_check
from zoo.testing.outcomes import FAILED, NOT_APPLICABLE

MODELS = [entry for entry in catalog.entries().values() if "/" not in entry.name]
SMALLEST = {entry.family: entry for entry in sorted(MODELS, key=lambda entry: entry.macs, reverse=True)}
SMALL = 50_000_000
"""MACs up to which the smallest model of a family is always held to every check."""
CHEAP = ("index", "shapes")
"""The checks of the smallest models that are larger: those of ten families, of which the others take most of a minute."""
COSTLY = ("accuracy",)
"""The checks that nets which stand for all are held to: a set is read through each."""


def cases() -> Iterator[Any]:
    """(model, check): half a minute of them always, the others under `slow`."""
    for entry in MODELS:
        for check in CHECKS:
            quick = entry is SMALLEST[entry.family] and (entry.macs <= SMALL or check in CHEAP)
            quick = quick and (check not in COSTLY or entry.name in STAND_FOR_ALL)
            marks = () if quick else pytest.mark.slow
            yield pytest.param(entry.name, check, marks=marks, id=f"{entry.name}-{check}")


@pytest.mark.parametrize(("name", "check"), list(cases()))
def test_model_conforms(name: str, check: str) -> None:
    result = run_check(name, check)
    if result.outcome == NOT_APPLICABLE:
        pytest.skip(result.sentence)
    if result.outcome == FAILED:
        pytest.fail(f"{name}: {check}: {result.sentence}", pytrace=False)


def test_every_family_has_a_model_in_the_default_run() -> None:
    quick = {case.values[0] for case in cases() if not case.marks}
    assert {catalog.entry(name).family for name in quick} == {entry.family for entry in MODELS}
