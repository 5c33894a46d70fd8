"""The rows of a profile, added up: by stage of the spec, and by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from zoo.measure.profile import BlockCost


class Total(NamedTuple):
    places: int
    params: int
    macs: int


def by_stage(blocks: Sequence[BlockCost]) -> dict[str, Total]:
    """`stem`, `stages.0`, ..., `head`: each with all that is in it."""
    return _totals(
        outermost(blocks), lambda row: ".".join(row.path.split(".")[: 2 if row.path.startswith("stages.") else 1])
    )


def by_block(blocks: Sequence[BlockCost]) -> dict[str, Total]:
    """Each block with all that stands in it; a wiring and the blocks that it holds are both there, so the totals overlap."""
    return _totals(blocks, lambda row: row.block)


def outermost(blocks: Sequence[BlockCost]) -> list[BlockCost]:
    """Those that stand in no other."""
    paths = {block.path for block in blocks}
    inside = [
        {".".join(steps[:n]) for n in range(1, len(steps))} & paths for steps in (b.path.split(".") for b in blocks)
    ]
    return [block for block, others in zip(blocks, inside, strict=True) if not others]


def _totals(rows: Iterable[BlockCost], key: Callable[[BlockCost], str]) -> dict[str, Total]:
    totals: dict[str, Total] = {}
    for row in rows:
        places, params, macs = totals.get(key(row), (0, 0, 0))
        totals[key(row)] = Total(places + 1, params + row.params, macs + row.macs)
    return totals
