"""What a plugin's package carries so that it is listed without being imported: `blocks.json`, `index.json`,
`profiles.json`, `parts.json`, `loads.json`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from blocks.registry import INDEX_OF_PLUGIN, get, info_of
from zoo.authoring.core_index import render
from zoo.catalog.collection import Collection
from zoo.catalog.index import entries
from zoo.measure.counted import Counted
from zoo.measure.load_counter import LOADS
from zoo.measure.parts import PARTS
from zoo.measure.profiles import PROFILES
from zoo.system.folders import write_whole

COUNTED: tuple[Counted[Any], ...] = (PROFILES, PARTS, LOADS)
"""What is counted of every model, and ships as a file each."""


def rendered(package: Path, blocks: Iterable[str], collection: Collection | None) -> dict[Path, bytes]:
    """Path -> the bytes that should stand there, for the blocks and specs of one package. Imports the blocks, and counts every model."""
    return dict(_files(package, blocks, collection))


def write(package: Path, blocks: Iterable[str], collection: Collection | None) -> list[Path]:
    """Writes them, each before the next is counted; returns the files."""
    written = []
    for path, fresh in _files(package, blocks, collection):
        write_whole(path, fresh)
        written.append(path)
        entries.cache_clear()
    return written


def _files(package: Path, blocks: Iterable[str], collection: Collection | None) -> Iterator[tuple[Path, bytes]]:
    """The blocks, the models, and the profiles, parts and loads of all models; the last three follow the order of the models."""
    if identities := sorted(blocks):
        infos = [info_of(get(identity)) for identity in identities]
        encoded = msgspec.json.encode(infos, order="sorted")
        yield package / INDEX_OF_PLUGIN, msgspec.json.format(encoded, indent=1) + b"\n"
    if collection is not None and any(collection.folder.glob("*.toml")):
        yield collection.index_file, render(collection)
        for counted in COUNTED:
            yield counted.table.path(collection), counted.rendered(collection)
