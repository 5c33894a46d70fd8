"""Published state-dict names: `python -m zoo.testing.headers` brings tests/published/block_headers.json up to date, and says what changed.

A name or shape that was there before is a promise: it is only replaced with --accept.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from blocks.registry import core_index
from zoo.testing import published
from zoo.testing.block_cases import Subject
from zoo.testing.checks import header

HEADERS = published.FOLDER / "block_headers.json"
Headers = dict[str, dict[str, list[int]]]


def render(headers: Mapping[str, Any]) -> str:
    """One line per tensor, so that a diff shows what moved."""
    return (
        json.dumps(headers, indent=1, sort_keys=True)
        .replace("[\n   ", "[")
        .replace(",\n   ", ", ")
        .replace("\n  ]", "]")
        + "\n"
    )


def current() -> Headers:
    """Identity -> name -> shape of all core blocks, built on meta."""
    return {identity: header(Subject(identity)) for identity in core_index()}


def main(arguments: list[str], path: pathlib.Path = HEADERS) -> int:
    """Adds new blocks; refuses, or with --accept takes, changes to published ones."""
    return published.update(path, current(), arguments, "names or shapes", "blocks", render)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
