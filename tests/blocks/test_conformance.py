"""Every registered block against every check of the kit, and against the table of what applies to it."""

from __future__ import annotations

import functools
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


@functools.cache
def subject(name: str) -> Subject:
    """One subject per block, so that its checks share what is built."""
    return Subject(name, NAMES)


def published_row(name: str) -> dict:
    """The row of a block; without one nothing is published of it."""
    return TABLE.get(subject(name).info.id, {"members": {}, "checks": {}})


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", CORE)
def test_block_conforms(name, check):
    expected, answer = published_row(name)["checks"].get(check, "nothing"), APPLIES
    try:
        CHECKS[check](subject(name))
    except NotApplicable as reason:
        answer = str(reason)
    except ConformanceFailure as failure:
        pytest.fail(f"{name}: {check}: {failure}", pytrace=False)
    if answer != expected:
        pytest.fail(f"{name}: {check}: {answer}; the table says: {expected}; {STALE}", pytrace=False)
    if answer != APPLIES:
        pytest.skip(answer)


@pytest.mark.parametrize("name", CORE)
def test_block_has_its_published_members(name):
    assert members_of(subject(name)) == published_row(name)["members"], STALE


def test_the_table_has_a_row_for_each_block_and_check():
    assert {identity: [*row["checks"]] for identity, row in TABLE.items()} == dict.fromkeys(
        sorted(blocks.describe(name).id for name in CORE), sorted(CHECKS)
    ), STALE
