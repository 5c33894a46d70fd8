"""Registrations that do not outlive a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blocks.registry import registration as registry


@contextmanager
def own_registrations() -> Iterator[None]:
    """Within, blocks may be registered and replaced; afterwards the registry is as before, except for core blocks loaded on the way."""
    loaded, local = dict(registry._loaded), dict(registry._local)
    try:
        yield
    finally:
        core = {identity: cls for identity, cls in registry._loaded.items() if cls.__module__.startswith("blocks.")}
        for table, before in ((registry._loaded, core | loaded), (registry._local, local)):
            table.clear()
            table.update(before)
