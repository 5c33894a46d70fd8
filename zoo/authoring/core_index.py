"""The index of a collection, made anew from its family files: `python -m zoo.catalog` writes zoo/models/index.json."""

from __future__ import annotations

import re
import sys

import msgspec
from torch import nn

from zoo.build.builder import build
from zoo.build.inputs import input_size
from zoo.build.params import count_params
from zoo.catalog.collection import CORE, Collection
from zoo.catalog.index import Entry
from zoo.catalog.manifests import tables
from zoo.catalog.published import specs_in
from zoo.measure.macs import count_macs
from zoo.specs.model import Spec
from zoo.system.folders import write_whole


def render(collection: Collection = CORE, file: str = "") -> bytes:
    """The bytes that the index of a collection should hold; with `file`, entries of other files stay as they are.

    Builds every model, or those of the file, on meta to count parameters and MACs."""
    entries = [_counted(entry, build(spec)) for entry, spec in described(collection, file or "*.toml")]
    if file:
        present = msgspec.json.decode(collection.index_file.read_bytes(), type=list[Entry])
        entries += [entry for entry in present if entry.file != file]
        entries.sort(key=_order)
    return msgspec.json.format(msgspec.json.encode(entries), indent=1) + b"\n"


def described(collection: Collection = CORE, pattern: str = "*.toml") -> list[tuple[Entry, Spec]]:
    """Each model of these files with all that the index says of it without building it, `params` and `macs` being 0; in its order."""
    pairs = [(_described(collection, file, spec), spec) for file, spec in specs_in(collection, pattern)]
    return sorted(pairs, key=lambda pair: _order(pair[0]))


def _described(collection: Collection, file: str, spec: Spec) -> Entry:
    text, manifests = spec.family, collection.weights.glob(f"{spec.name}.*.json")
    return Entry(
        name=spec.name,
        family=text.name,
        file=file,
        task=text.task,
        digest=spec.digest,
        params=0,
        macs=0,
        input_size=list(input_size(spec.input)),
        title=text.title,
        paper=text.paper,
        licence=text.licence,
        code=text.code,
        blocks=spec.blocks(),
        tags=sorted(path.name.removesuffix(".json").partition(".")[2] for path in manifests),
        listed=[tag for model, tag in tables(collection.weights / file) if model == spec.name],
    )


def _counted(entry: Entry, model: nn.Module) -> Entry:
    return msgspec.structs.replace(entry, params=count_params(model), macs=count_macs(model).total)


def _order(entry: Entry) -> list[tuple[int, str]]:
    """m5 before m36: digits count as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", entry.name)]


def main() -> int:
    """Writes the index; with --check only says whether it is up to date."""
    fresh = render()
    if "--check" in sys.argv[1:]:
        current = CORE.index_file.exists() and CORE.index_file.read_bytes() == fresh
        print("index.json is up to date" if current else "index.json is stale: run `python -m zoo.catalog`")
        return 0 if current else 1
    write_whole(CORE.index_file, fresh)
    print(f"{len(msgspec.json.decode(fresh))} models written to {CORE.index_file.name}")
    return 0
