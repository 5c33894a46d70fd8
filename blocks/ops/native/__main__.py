"""`python -m blocks.ops.native`: builds every kernel ahead of its first use, and says what is there."""

from __future__ import annotations

import sys

from blocks.ops import native
from blocks.ops.native.build import path_of


def main() -> int:
    """Exit code 1 when a kernel is missing."""
    reasons = {name: native.missing(name) for name in native.names()}
    for name, reason in reasons.items():
        print(f"{name:24s} {reason or path_of(name)}")
    return 1 if any(reasons.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
