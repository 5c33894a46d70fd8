"""Numbers as Python has them, of those that NumPy and torch have: `num_classes=np.int64(10)` is what `num_classes=10` is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """`value` with its scalars and arrays of NumPy and torch as Python numbers and lists, in lists and tables too; the rest as it is."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else value
    return value.tolist() if hasattr(value, "tolist") and hasattr(value, "ndim") else value


def is_count(value: Any, least: int = 0) -> bool:
    """Whether a plain value is a whole number from `least` on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
