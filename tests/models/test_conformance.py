"""The core's own models against every check of the kit: the smallest of each family always, all of them under `slow`."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.sampled import STAND_FOR_ALL
from zoo import catalog
from zoo.testing.models import CHECKS, Subject, run_check
from zoo.testing.outcomes import FAILED

MODELS = {name: entry for name, entry in catalog.entries().items() if "/" not in name}
SMALLEST = {entry.family: entry for entry in sorted(MODELS.values(), key=lambda entry: entry.macs, reverse=True)}
SMALL = 50_000_000
"""MACs up to which the smallest model of a family is always held to the checks that pass numbers through it."""
CHEAP = ("index", "shapes")
"""The checks of the smallest models that are larger: those of ten families, of which the others take most of a minute."""
COSTLY = ("accuracy", "traced", "weights")
"""The checks that nets which stand for all are held to: a set is read through each; of blocks, fvcore counts all in `tests/blocks`; the
bytes of all weights are held against their manifests in `test_nano.py`."""


def held(name: str, checks: Iterable[str]) -> None:
    """All checks of a model, and all that fail in one report; those that do not apply say nothing."""
    subject = Subject(name)
    failed = [result for check in checks if (result := run_check(subject, check)).outcome == FAILED]
    if failed:
        pytest.fail("\n".join(f"{name}: {one.check}: {one.sentence}" for one in failed), pytrace=False)


@pytest.mark.parametrize("name", sorted(entry.name for entry in SMALLEST.values()))
def test_the_smallest_model_of_a_family_conforms(name: str) -> None:
    small, stands = MODELS[name].macs <= SMALL, name in STAND_FOR_ALL
    held(name, [check for check in CHECKS if (small or check in CHEAP) and (stands or check not in COSTLY)])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_conforms(name: str) -> None:
    held(name, CHECKS)


def test_every_family_has_a_model_that_is_always_checked() -> None:
    assert SMALLEST.keys() == {entry.family for entry in MODELS.values()}
