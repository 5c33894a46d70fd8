"""What the parts of a model cost: by place, by class of operation, by block. Counted on meta by `zoo.profile`, and kept by digest.

A model takes about as long as building it, so the counts of a catalogue are kept in the data folder of the zoo, with the hash of the
source that was counted; a site that is built again counts what has changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from blocks.registry.words import raised
from zoo import catalog
from zoo.measure.source_hash import source_hash
from zoo.system.folders import data_folder, write_whole

log = logging.getLogger("zoo")

KEPT = "site-counts.json"


class Cost(msgspec.Struct, frozen=True, array_like=True):
    """How often something stands in a model, and what that costs."""

    places: int
    params: int
    macs: int


class Counts(msgspec.Struct, frozen=True):
    """Of one model in its train form: `stages` by place of the spec, `classes` MACs or FLOPs by class, `blocks` by short name."""

    stages: dict[str, Cost]
    classes: dict[str, int]
    blocks: dict[str, Cost]


def counts_of(
    names: Sequence[str], progress: Callable[[int, int, str], None] = lambda done, total, name: None
) -> dict[str, Counts]:
    """The counts of models. Those that a plugin's code builds have none, nor has a plugin's that cannot be built: of it a warning tells."""
    path = data_folder() / KEPT
    kept = _read(path)
    keys = {name: _key(name) for name in names if catalog.entry(name).file}
    missing = [name for name, key in keys.items() if key not in kept]
    for done, name in enumerate(missing):
        progress(done, len(missing), name)
        try:
            kept[keys[name]] = _count(name)
        except Exception as error:  # the code of a plugin's block may do anything
            if not catalog.home_of(name).namespace:
                raise
            log.warning("%s: its parts cannot be counted: %s", name, raised(error))
        if done % 20 == 19 or done == len(missing) - 1:  # a run that is broken off goes on there
            write_whole(path, msgspec.json.encode(kept))
    return {name: kept[key] for name, key in keys.items() if key in kept}


def _key(name: str) -> str:
    entry = catalog.entry(name)
    return f"{entry.digest[:16]} {entry.input_size} {source_hash(tuple(entry.blocks))}"


def _read(path: Path) -> dict[str, Counts]:
    """What was kept; nothing where that is no longer readable, and is counted anew."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Counts])
    except (OSError, ValueError):
        return {}


def _count(name: str) -> Counts:
    from zoo.measure.profile import profile
    from zoo.measure.stages import by_block, by_stage

    found = profile(name)
    classes = {kind: value for kind, value in found.by_class.items() if value}
    classes |= {kind: value for kind, value in (("scan", found.scan_flops), ("fft", found.fft_flops)) if value}
    stages, blocks = (
        {key: Cost(*row) for key, row in table.items()} for table in (by_stage(found.blocks), by_block(found.blocks))
    )
    return Counts(stages, classes, blocks)
