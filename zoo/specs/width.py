"""The width law: one factor for every width of a net."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from blocks.registry.schema import fragment
from zoo.errors import Problem
from zoo.specs.laws import law_of
from zoo.specs.tree import Items, Table, walk


class Width(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every width of stem, stages and graph times `scale`, rounded to a multiple of `round_to`.

    Without `stem` those of the stem stay; with `head` those of the head are scaled, too.
    """

    scale: Annotated[float, Meta(gt=0, le=1000)]
    round_to: Annotated[int, Meta(ge=1, le=1024)] = 8
    stem: bool = True
    head: bool = False


WIDTH_SCHEMA = fragment(Width)


def apply_width(merged: Table, tree: Table, problems: list[Problem]) -> None:
    """Scales `dims`, and each `out_dim` and `hidden_dim` of the tree, in place, by the law of `merged`, if it has one."""
    law = law_of(merged, "width", Width, problems)
    if law is None:
        return
    dims = tree.get("dims")
    if isinstance(dims, Items):
        for i, dim in enumerate(dims):
            dims[i] = scaled(dim, law.scale, law.round_to)
    for key in (*(["stem"] if law.stem else []), "stages", "graph", *(["head"] if law.head else [])):
        for _, node in walk(tree.get(key)):
            for name in ("out_dim", "hidden_dim") if isinstance(node, Table) else ():
                if isinstance(width := node.get(name), int) and not isinstance(width, bool):
                    node[name] = scaled(width, law.scale, law.round_to)


def scaled(width: int, scale: float, step: int) -> int:
    """`width * scale` to the nearest multiple of `step`, at least `step`, and never below nine tenths of it."""
    exact = width * scale
    rounded = max(step, int(exact + step / 2) // step * step)
    return rounded + step if rounded < 0.9 * exact else rounded
