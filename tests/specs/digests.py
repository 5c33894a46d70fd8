"""Golden digests: `python -m tests.specs.digests` brings tests/golden/digests.json up to date, and says what changed.

A published digest is a promise, for records and weights are filed under it: it is only replaced with --accept.
"""

from __future__ import annotations

import json
import pathlib
import sys

from zoo.catalog import sources
from zoo.catalog.listing import list_models

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "digests.json"


def read() -> dict[str, str]:
    """Name -> digest of every published model; empty when the file is not there yet."""
    return json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


def main(arguments: list[str]) -> int:
    """Adds new models; refuses, or with --accept takes, changes to published ones."""
    golden = read()
    fresh = {name: sources.spec(name).digest for name in list_models()}
    changed = sorted(name for name in golden if golden[name] != fresh.get(name))
    if changed and "--accept" not in arguments:
        print(f"published digests changed: {', '.join(changed)}; nothing was written; --accept replaces them")
        return 1
    GOLDEN.write_text(json.dumps(fresh, indent=1, sort_keys=True) + "\n")
    print(f"{len(fresh)} models: {len(set(fresh) - set(golden))} new, {len(changed)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
