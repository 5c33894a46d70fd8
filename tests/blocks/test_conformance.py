"""Every registered block against every check of the kit."""

from __future__ import annotations

import functools
import pathlib

import pytest

import blocks
from zoo.testing.block_cases import Subject
from zoo.testing.conformance import CHECKS
from zoo.testing.headers import GOLDEN, read
from zoo.testing.outcomes import ConformanceFailure, NotApplicable

HEADERS = read(pathlib.Path(__file__).parents[2] / GOLDEN)
CORE = [name for name in blocks.list_blocks() if "/" not in name]


@functools.cache
def subject(name: str) -> Subject:
    """One subject per block, so that its checks share what is built."""
    return Subject(name, HEADERS)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", CORE)
def test_block_conforms(name, check):
    try:
        CHECKS[check](subject(name))
    except NotApplicable:
        pass
    except ConformanceFailure as failure:
        pytest.fail(f"{name}: {check}: {failure}", pytrace=False)
