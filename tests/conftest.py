"""Workers of `pytest -n` share the cores: each has its part of them in torch, and so have the processes that it starts."""

from __future__ import annotations

import gc
import os

import pytest

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
LONG = ("tests/test_docs.py::test_all_of_each_page", "tests/plugins/test_stranger.py", "tests/site/", "tests/faults/")
"""Tests that take from ten seconds to a minute each: they are begun first, so that no worker waits for another at the end."""

if WORKERS > 1:  # OpenMP reads it once, when torch is imported: before any test is
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, all others in their order."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_collection_finish() -> None:
    """What was collected stays until the end: the garbage collector need not walk over a million objects in every round."""
    gc.collect()
    gc.freeze()
