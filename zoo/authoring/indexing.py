"""What a plugin's package carries so that it is listed without being imported: `blocks.json`, `index.json`,
`profiles.json`, `loads.json`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from blocks.registry import INDEX_OF_PLUGIN, get, info_of
from zoo.authoring.core_index import render
from zoo.catalog.collection import Collection
from zoo.system.folders import write_whole


def rendered(package: Path, blocks: Iterable[str], collection: Collection | None) -> dict[Path, bytes]:
    """Path -> the bytes that should stand there, for the blocks and specs of one package. Imports the blocks."""
    files: dict[Path, bytes] = {}
    if identities := sorted(blocks):
        infos = [info_of(get(identity)) for identity in identities]
        files[package / INDEX_OF_PLUGIN] = (
            msgspec.json.format(msgspec.json.encode(infos, order="sorted"), indent=1) + b"\n"
        )
    if collection is not None and any(collection.folder.glob("*.toml")):
        files[collection.index_file] = render(collection)
    return files


def write(package: Path, blocks: Iterable[str], collection: Collection | None) -> list[Path]:
    """Writes them, and the profiles and loads of all models in both forms; returns the files."""
    from zoo.measure import load, profiles

    files = rendered(package, blocks, collection)
    for path, fresh in files.items():
        write_whole(path, fresh)
    if collection is None or collection.index_file not in files:
        return list(files)
    profiles.write(collection)
    load.write(collection)
    return [*files, collection.data / profiles.PROFILES, collection.data / load.LOADS]
