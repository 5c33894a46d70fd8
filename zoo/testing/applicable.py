"""What holds each core block: `python -m zoo.testing.applicable` brings tests/published/conformance.json up to date, and says what changed.

By identity the file has the members of the contract that a block has, each with the class that defines it, and for each check `applies`
or the reason why it does not. So a member that is renamed, or an ability that is dropped, turns no check off in silence: rows that were
there before are only replaced with --accept.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

from blocks.registry import core_index
from zoo.testing import published
from zoo.testing.block_cases import Subject
from zoo.testing.conformance import check_block
from zoo.testing.headers import HEADERS
from zoo.testing.members import members_of
from zoo.testing.outcomes import NOT_APPLICABLE, Result

CONFORMANCE = published.FOLDER / "conformance.json"
APPLIES = "applies"
Table = dict[str, dict[str, Any]]


def answer(result: Result) -> str:
    """What the table says of a check: `applies`, also where it fails, or the reason why it does not."""
    return result.sentence if result.outcome == NOT_APPLICABLE else APPLIES


def row(subject: Subject) -> dict[str, Any]:
    """The row of one block. Runs all of its checks."""
    checks = {result.check: answer(result) for result in check_block(subject)}
    return {"members": members_of(subject), "checks": checks}


def current() -> Table:
    """The rows of all core blocks: minutes of work."""
    headers = published.read(HEADERS)
    return {identity: row(Subject(identity, headers)) for identity in core_index()}


def main(arguments: list[str], path: pathlib.Path = CONFORMANCE) -> int:
    """Adds new blocks; refuses, or with --accept takes, changes to published ones."""
    return published.update(path, current(), arguments, "members or checks", "blocks")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
