"""Promises in the files of `tests/published`: a row that was published is only replaced with --accept."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

FOLDER = pathlib.Path("tests/published")


def read(path: pathlib.Path) -> dict[str, Any]:
    """The rows of a file by name; none when it is not there yet."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def render(rows: Mapping[str, Any]) -> str:
    """Sorted, one value to a line, so that a diff shows what moved."""
    return json.dumps(rows, indent=1, sort_keys=True) + "\n"


def update(
    path: pathlib.Path,
    rows: Mapping[str, Any],
    arguments: list[str],
    promise: str,
    unit: str,
    render: Callable[[Mapping[str, Any]], str] = render,
) -> int:
    """Adds new rows; refuses, or with --accept takes, changes to published ones. Returns an exit code, and prints what changed.

    `promise` names what a row holds and `unit` what it is about, both in the plural.
    """
    published = read(path)
    changed = sorted(name for name in published if published[name] != rows.get(name))
    if changed and "--accept" not in arguments:
        print(f"published {promise} changed: {', '.join(changed)}; nothing was written; --accept replaces them")
        return 1
    path.write_text(render(rows), encoding="utf-8")
    print(f"{len(rows)} {unit}: {len(set(rows) - set(published))} new, {len(changed)} changed")
    return 0
