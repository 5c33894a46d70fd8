"""Every registered block against every check of the kit, and against the table of what applies to it."""

from __future__ import annotations

import pathlib

import pytest

import blocks
from zoo.testing import published
from zoo.testing.applicable import APPLIES, CONFORMANCE
from zoo.testing.block_cases import Subject
from zoo.testing.conformance import CHECKS
from zoo.testing.headers import HEADERS
from zoo.testing.members import members_of
from zoo.testing.outcomes import ConformanceFailure, NotApplicable

ROOT = pathlib.Path(__file__).parents[2]
NAMES = published.read(ROOT / HEADERS)
TABLE = published.read(ROOT / CONFORMANCE)
CORE = [name for name in blocks.list_blocks() if "/" not in name]
STALE = "run `python -m zoo.testing.applicable`, with --accept if that is meant"


def answer(subject: Subject, check: str) -> str:
    """`applies`, why a check does not apply, or what is wrong."""
    try:
        CHECKS[check](subject)
    except NotApplicable as reason:
        return str(reason)
    except ConformanceFailure as failure:
        return f"it fails, for {failure}"
    return APPLIES


@pytest.mark.parametrize("name", CORE)
def test_block_conforms(name: str) -> None:
    """All checks in one test, for they share what is built; `pytest --zoo-conformance core -k NAME` has one for each."""
    subject = Subject(name, NAMES)
    row = TABLE.get(subject.info.id, {"members": {}, "checks": {}})  # without one nothing is published of it
    wrong = [
        f"{name}: {check}: {found}; the table says: {expected}; {STALE}"
        for check in CHECKS
        if (found := answer(subject, check)) != (expected := row["checks"].get(check, "nothing"))
    ]
    if (members := members_of(subject)) != row["members"]:
        wrong.append(f"{name}: its members are {members}; the table says: {row['members']}; {STALE}")
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def test_the_table_has_a_row_for_each_block_and_check() -> None:
    assert {identity: [*row["checks"]] for identity, row in TABLE.items()} == dict.fromkeys(
        sorted(blocks.describe(name).id for name in CORE), sorted(CHECKS)
    ), STALE
