"""timm as an oracle."""

from __future__ import annotations

import types

import pytest


@pytest.fixture(scope="session")
def timm() -> types.ModuleType:
    """The timm package, importable beside a CPU torch."""
    from zoo._timm import import_timm

    return import_timm()
