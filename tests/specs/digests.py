"""Published digests: `python -m tests.specs.digests` brings tests/published/digests.json up to date, and says what changed.

A digest is a promise, for records and weights are filed under it: it is only replaced with --accept.
"""

from __future__ import annotations

import pathlib
import sys

from zoo.catalog import sources
from zoo.catalog.listing import list_models
from zoo.testing import published

DIGESTS = pathlib.Path(__file__).parents[1] / "published" / "digests.json"


def current() -> dict[str, str]:
    """Name -> digest of every model."""
    return {name: sources.spec(name).digest for name in list_models()}


def main(arguments: list[str]) -> int:
    """Adds new models; refuses, or with --accept takes, changes to published ones."""
    return published.update(DIGESTS, current(), arguments, "digests", "models")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
