"""What commands print: tables for people, JSON for machines, one sentence for errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Prints rows under named columns; numbers are right-aligned."""
    from rich.console import Console
    from rich.table import Table

    rows = [list(row) for row in rows]
    view = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], (int, float)) or _figure(row[i]) for row in rows)
        view.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        view.add_row(*[str(cell) for cell in row])
    # a pipe has no width: rows stay whole there, for grep and cut
    Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False, emoji=False).print(view)


def _figure(cell: Any) -> bool:
    return isinstance(cell, str) and (cell == "" or cell[0].isdigit() or (cell[0] in "+-" and len(cell) > 1))


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def dump(value: Any) -> None:
    """Prints a value as JSON."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def count(value: float, unit: str = "") -> str:
    """4649060 -> 4.65 M: three significant digits and a prefix."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def size(count: float) -> str:
    """Bytes with a prefix: 4649060 -> 4.4 MiB."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} bytes"


def complain(text: str) -> None:
    """Prints an error to stderr."""
    print(text, file=sys.stderr)
