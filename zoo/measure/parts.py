"""What the parts of each model cost, as it ships with a collection. `python -m zoo.measure.parts` writes the core's.

Reading them imports no torch.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

import msgspec

from zoo.catalog.collection import CORE, Collection, collections, read_data
from zoo.catalog.published import specs_in
from zoo.measure.profiles import catalogued
from zoo.measure.stages import by_block, by_stage
from zoo.system.folders import write_whole

if TYPE_CHECKING:
    from zoo.measure.profile import Profile

PARTS = "parts.json"


class Part(msgspec.Struct, frozen=True, array_like=True):
    """How often something stands in a model, and what that costs."""

    places: int
    params: int
    macs: int


class Parts(msgspec.Struct, frozen=True, array_like=True):
    """Of one model in its train form, for one input of its own size.

    `stages`, by place of the spec, add up to the whole. `classes` are MACs by class of operation, of scans and Fourier transforms FLOPs; the largest comes
    first. `blocks`, by short name, count each block with all that stands in it, so that they overlap.
    """

    stages: dict[str, Part]
    classes: dict[str, int]
    blocks: dict[str, Part]


@functools.cache
def parts() -> dict[str, Parts]:
    """By model, those of all collections; a model that ships none has none."""
    found: dict[str, Parts] = {}
    for collection in collections().values():
        shipped: dict[str, Parts] = read_data(collection, collection.data / PARTS, decoded, {})
        found |= {collection.full(name): of for name, of in shipped.items()}
    return found


def decoded(data: bytes) -> dict[str, Parts]:
    return msgspec.json.decode(data, type=dict[str, Parts])


def parts_of(counted: Profile) -> Parts:
    """The rows of a profile, added up."""
    work = counted.by_class | {"scan": counted.scan_flops, "fft": counted.fft_flops}
    classes = {kind: value for kind, value in sorted(work.items(), key=lambda item: -item[1]) if value}
    return Parts(
        {place: Part(*total) for place, total in by_stage(counted.blocks).items()},
        classes,
        {block: Part(*total) for block, total in sorted(by_block(counted.blocks).items())},
    )


def render(found: dict[str, Parts]) -> bytes:
    """A model a line."""
    lines = [f'"{name}": {msgspec.json.encode(of).decode()}' for name, of in found.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def rendered(collection: Collection, file: str = "") -> bytes:
    """The bytes that the parts of a collection should hold: every model that a spec describes is counted, or those of one `file` alone."""
    from zoo.measure.profile import profile

    path = collection.data / PARTS
    fresh = {spec.name: parts_of(profile(spec)) for _, spec in specs_in(collection, file or "*.toml")}
    others = decoded(path.read_bytes()) if file and path.is_file() else {}
    return render(catalogued(collection, others, fresh))


def write(collection: Collection, file: str = "") -> None:
    """Writes the parts of a collection, those of one `file` anew."""
    write_whole(collection.data / PARTS, rendered(collection, file))


def main() -> int:
    write(CORE)
    print(f"parts of {len(decoded((CORE.data / PARTS).read_bytes()))} models written to {PARTS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
