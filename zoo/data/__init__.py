"""Pictures, digits, texts and tasks, as tensors."""

from __future__ import annotations


def __getattr__(name: str) -> object:
    """Raises AttributeError, with the way here for what stands in `timm.data`."""
    from zoo._elsewhere import NAMES, TIMM

    step = f"; next: {NAMES.get(name) or TIMM.format(name='data')}" if not name.startswith("_") else ""
    raise AttributeError(f"module `zoo.data` has no attribute `{name}`{step}")
