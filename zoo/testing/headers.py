"""Golden state-dict names: `python -m zoo.testing.headers` brings tests/golden/block_headers.json up to date, and says what changed.

A name or shape that was there before is a published promise: it is only replaced with --accept.
"""

from __future__ import annotations

import json
import pathlib
import sys

from blocks.registry import core_index
from zoo.testing.block_cases import Subject
from zoo.testing.checks import header

GOLDEN = pathlib.Path("tests/golden/block_headers.json")
Headers = dict[str, dict[str, list[int]]]


def read(path: pathlib.Path = GOLDEN) -> Headers:
    """Identity -> name -> shape; empty when the file is not there yet."""
    return json.loads(path.read_text()) if path.exists() else {}


def render(headers: Headers) -> str:
    """One line per tensor, so that a diff shows what moved."""
    return (
        json.dumps(headers, indent=1, sort_keys=True)
        .replace("[\n   ", "[")
        .replace(",\n   ", ", ")
        .replace("\n  ]", "]")
        + "\n"
    )


def current() -> Headers:
    """The headers of all core blocks, built on meta."""
    return {identity: header(Subject(identity)) for identity in core_index()}


def main(arguments: list[str], path: pathlib.Path = GOLDEN) -> int:
    """Adds new blocks; refuses, or with --accept takes, changes to published ones."""
    golden, fresh = read(path), current()
    changed = sorted(identity for identity in golden if golden[identity] != fresh.get(identity))
    if changed and "--accept" not in arguments:
        print(f"published names or shapes changed: {', '.join(changed)}; nothing was written; --accept replaces them")
        return 1
    path.write_text(render(fresh))
    print(f"{len(fresh)} blocks: {len(set(fresh) - set(golden))} new, {len(changed)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
