"""The index of a collection, made anew from its family files: `python -m zoo.catalog` writes zoo/models/index.json."""

from __future__ import annotations

import re
import sys

import msgspec

from zoo.build.builder import build
from zoo.build.inputs import input_size
from zoo.catalog.collection import CORE, Collection
from zoo.catalog.index import Entry
from zoo.catalog.manifests import tables
from zoo.catalog.published import specs_in
from zoo.measure.macs import count_macs


def render(collection: Collection = CORE) -> bytes:
    """The bytes that the index of a collection should hold. Builds every model on meta to count its parameters and MACs."""
    found = []
    for file, spec in specs_in(collection):
        model = build(spec)
        text = spec.family
        found.append(
            Entry(
                spec.name,
                text.name,
                file,
                text.task,
                spec.digest,
                sum(parameter.numel() for parameter in model.parameters()),
                count_macs(model).total,
                list(input_size(spec.input)),
                text.title,
                text.paper,
                text.licence,
                text.code,
                spec.blocks(),
                sorted(
                    manifest.name.removesuffix(".json").partition(".")[2]
                    for manifest in collection.weights.glob(f"{spec.name}.*.json")
                ),
                [tag for model, tag in tables(collection.weights / file) if model == spec.name],
            )
        )
    found.sort(key=lambda one: _natural(one.name))
    return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"


def _natural(name: str) -> list[tuple[int, str]]:
    """m5 before m36: digits count as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def main() -> int:
    """Writes the index; with --check only says whether it is up to date."""
    fresh = render()
    if "--check" in sys.argv[1:]:
        current = CORE.index_file.exists() and CORE.index_file.read_bytes() == fresh
        print("index.json is up to date" if current else "index.json is stale: run `python -m zoo.catalog`")
        return 0 if current else 1
    CORE.index_file.write_bytes(fresh)
    print(f"{len(msgspec.json.decode(fresh))} models written to {CORE.index_file.name}")
    return 0
