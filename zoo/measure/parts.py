"""What the parts of each model cost, as it ships with a collection. `python -m zoo.measure.parts` writes the core's.

Reading them imports no torch.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

import msgspec

from zoo.measure.counted import Counted, Table
from zoo.measure.stages import by_block, by_stage

if TYPE_CHECKING:
    from zoo.measure.profile import Profile
    from zoo.specs.model import Spec


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
    return PARTS.table.everywhere()


def _decoded(data: bytes) -> dict[str, Parts]:
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


def _counted(spec: Spec) -> Parts:
    from zoo.measure.profile import profile

    return parts_of(profile(spec))


PARTS = Counted(Table("parts.json", _decoded), _counted)

if __name__ == "__main__":
    sys.exit(PARTS.main())
