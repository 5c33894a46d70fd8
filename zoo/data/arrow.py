"""pyarrow, which reads and writes tables, where it is installed."""

from __future__ import annotations

from typing import Any

from zoo.errors import InputError, Problem


def arrow(subject: object) -> Any:
    """The package with its `parquet`. Raises InputError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        step = 'pip install "blockzoo[data]"'
        problem = Problem("", "pyarrow, which reads and writes Parquet", "no such package", next=step)
        raise InputError(str(subject), problem) from None
    return pyarrow
