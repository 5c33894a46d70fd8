"""The generated index: `python -m blocks.registry.index` writes what is known of every core block to index.json, so that listing imports nothing."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import msgspec

import blocks
from blocks.registry import INDEX
from blocks.registry import registration as registry


def core_classes() -> list[type]:
    """Every registered class of this package, after importing all modules that may define one."""
    for module in pkgutil.walk_packages(blocks.__path__, "blocks."):
        kernels = module.name.startswith("blocks.ops.")  # no blocks, and some need what is not installed
        if not kernels and not module.name.rpartition(".")[2].startswith("_") and module.name != __name__:
            importlib.import_module(module.name)
    return [cls for identity, cls in sorted(registry._loaded.items()) if identity.startswith("core/")]


def render() -> bytes:
    """The bytes that index.json should hold."""
    infos = [registry.info_of(cls) for cls in core_classes()]
    return msgspec.json.format(msgspec.json.encode(infos, order="sorted"), indent=1) + b"\n"


def main() -> int:
    """Writes the index; with --check only says whether it is up to date."""
    fresh = render()
    if "--check" in sys.argv[1:]:
        current = INDEX.read_bytes() == fresh
        print("index.json is up to date" if current else "index.json is stale: run `python -m blocks.registry.index`")
        return 0 if current else 1
    INDEX.write_bytes(fresh)
    print(f"{len(msgspec.json.decode(fresh))} blocks written to {INDEX.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
