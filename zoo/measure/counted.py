"""What is counted of every model and ships with its collection: files of JSON, a model a line, in the order of the catalogue.

Reading them imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from zoo import catalog
from zoo.catalog.collection import CORE, Collection, collections, read_data
from zoo.catalog.published import specs_in
from zoo.system.folders import write_whole

if TYPE_CHECKING:
    from zoo.specs.model import Spec

T = TypeVar("T")


class Table(Generic[T]):
    """A file that each collection may have; `decoded` reads its bytes: values by the short names of models."""

    def __init__(self, file: str, decoded: Callable[[bytes], dict[str, T]]):
        self.file, self.decoded = file, decoded

    def path(self, collection: Collection) -> Path:
        return collection.data / self.file

    def everywhere(self) -> dict[str, T]:
        """The values of all collections by full name; a model that ships none has none."""
        found: dict[str, T] = {}
        for collection in collections().values():
            shipped: dict[str, T] = read_data(collection, self.path(collection), self.decoded, {})
            found |= {collection.full(name): value for name, value in shipped.items()}
        return found


class Counted(Generic[T]):
    """How a table comes to be: `count` gives the value of a model from its spec."""

    def __init__(self, table: Table[T], count: Callable[[Spec], T]):
        self.table, self.count = table, count

    def rendered(self, collection: Collection, file: str = "") -> bytes:
        """The bytes that a collection should hold: every model that a spec describes is counted, or those of one `file` alone."""
        fresh = {spec.name: self.count(spec) for _, spec in specs_in(collection, file or "*.toml")}
        path = self.table.path(collection)
        others = self.table.decoded(path.read_bytes()) if file and path.is_file() else {}
        return render(in_order(collection, others, fresh))

    def write(self, collection: Collection, file: str = "") -> None:
        """Writes the table of a collection, the models of one `file` anew."""
        write_whole(self.table.path(collection), self.rendered(collection, file))

    def main(self) -> int:
        """`python -m` of the module that counts: the core's."""
        self.write(CORE)
        count = len(self.table.decoded(self.table.path(CORE).read_bytes()))
        print(f"{count} models written to {self.table.file}")
        return 0


def in_order(collection: Collection, others: Mapping[str, T], fresh: Mapping[str, T]) -> dict[str, T]:
    """What is known of the `others` that the catalogue names, and what is `fresh`, in the order of the catalogue."""
    order = {collection.short(name): place for place, name in enumerate(catalog.entries())}
    present = {name: value for name, value in others.items() if name in order} | dict(fresh)
    return {name: present[name] for name in sorted(present, key=lambda name: order.get(name, len(order)))}


def render(values: Mapping[str, object]) -> bytes:
    """A model a line."""
    lines = [f'"{name}": {msgspec.json.encode(value).decode()}' for name, value in values.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()
