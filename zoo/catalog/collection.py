"""Where models come from: the core's folder of data, and those of plugins. Nothing of a plugin is imported to read its data.

A collection is a folder:

    <family>.toml         specs, one file per family
    index.json            what the catalogue knows of each model: `zoo index` writes it
    weights/              <model>.<tag>.json, and the bytes of embedded weights beside it
    data/                 profiles.json, parts.json, loads.json, latency.jsonl, blocks.jsonl, published.toml

A model of the namespace `acme` is called `acme/<variant>` wherever a user meets it; in the folder it has its bare name.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from blocks.registry import plugins

Read = TypeVar("Read")


class Collection(NamedTuple):
    """`namespace` is "" for the core's; `owner` is the distribution with its version."""

    namespace: str
    folder: pathlib.Path
    owner: str

    @property
    def index_file(self) -> pathlib.Path:
        return self.folder / "index.json"

    @property
    def weights(self) -> pathlib.Path:
        return self.folder / "weights"

    @property
    def data(self) -> pathlib.Path:
        return self.folder / "data"

    def full(self, name: str) -> str:
        """The name that users know."""
        return f"{self.namespace}/{name}" if self.namespace else name

    def short(self, name: str) -> str:
        """The name in the folder's files."""
        return name.removeprefix(f"{self.namespace}/") if self.namespace else name


def read_data(collection: Collection, path: pathlib.Path, read: Callable[[bytes], Read], empty: Read) -> Read:
    """What `read` makes of a file of a collection, `empty` where there is none.

    A plugin's that cannot be read breaks that plugin alone: it is marked, with its cure, and counts as empty; the core's raises."""
    try:
        return read(path.read_bytes()) if path.is_file() else empty
    except Exception as error:  # no JSON, too deep, other keys, no right to read it
        plugin = plugins.owner_of(collection.namespace)
        if plugin is None:
            raise
        plugin.fails(
            "broken", f"{path} cannot be read ({error}); next: zoo index {collection.namespace}, or {plugin.reinstall}"
        )
        return empty


CORE = Collection("", pathlib.Path(__file__).parents[1] / "models", "blockzoo")


@functools.cache
def collections() -> dict[str, Collection]:
    """The collections by namespace, the core's first. A plugin whose folder is not there is marked as broken, and left out."""
    homes = {"": CORE}
    for plugin in plugins.plugins().values():
        if not plugin.usable:
            continue
        for namespace, point in sorted(plugin.models.items()):
            package = plugins.folder_of(point)
            folder = package / "models" if package is not None else None
            if folder is not None and folder.is_dir():
                homes[namespace] = Collection(namespace, folder, plugin.owner)
                continue
            where = folder if folder is not None else f"a package `{point.value}` with a folder `models`"
            missing = f"its models are not there: {where}"
            plugin.fails("broken", f"{missing}; next: pip install --force-reinstall {plugin.name}, or uninstall it")
    return homes


def namespace_of(name: str) -> str:
    """`acme` of `acme/shiftnet_nano`; "" for a core model."""
    return name.rpartition("/")[0]
