"""Which code a measurement is of: rows of older code show as stale. Imports no torch, and no block."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys

from blocks import registry


@functools.lru_cache(maxsize=4096)
def source_hash(blocks: tuple[str, ...]) -> str:
    """12 hexadecimal digits for the source files of these blocks; what is defined in no file does not count."""
    homes = {registry.describe(block).target.partition(":")[0] for block in blocks}
    digest = hashlib.sha256()
    for home in sorted(homes):
        spec = importlib.util.find_spec(home) if home in sys.modules or home.startswith("blocks.") else None
        if spec is not None and spec.origin:
            with open(spec.origin, "rb") as file:
                digest.update(file.read())
    return digest.hexdigest()[:12]
