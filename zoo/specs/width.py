"""The width law: one factor for every width of a net."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from blocks.registry.calls import complete_call
from blocks.registry.schema import INVALID, Issue, complete, fragment, shown
from zoo.errors import Problem
from zoo.specs.tree import Items, Table, origin_of, walk


class Width(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every width of stem, stages and graph times `scale`, rounded to a multiple of `round_to`; without `stem` those of the stem stay."""

    scale: Annotated[float, Meta(gt=0, le=1000)]
    round_to: Annotated[int, Meta(ge=1, le=1024)] = 8
    stem: bool = True


WIDTH_SCHEMA = fragment(Width)


def apply_width(merged: Table, tree: Table, problems: list[Problem]) -> None:
    """Scales `dims`, and each `out_dim` and `hidden_dim` of the tree, in place, by the law of `merged`, if it has one."""
    law = _law(merged, problems) if "width" in merged else None
    if law is None:
        return
    dims = tree.get("dims")
    if isinstance(dims, Items):
        for i, dim in enumerate(dims):
            dims[i] = scaled(dim, law.scale, law.round_to)
    for key in ("stem", "stages", "graph") if law.stem else ("stages", "graph"):
        for _, node in walk(tree.get(key)):
            for name in ("out_dim", "hidden_dim") if isinstance(node, Table) else ():
                if isinstance(width := node.get(name), int) and not isinstance(width, bool):
                    node[name] = scaled(width, law.scale, law.round_to)


def _law(merged: Table, problems: list[Problem]) -> Width | None:
    """The law, None when it is wrong."""
    table, fields = merged["width"], Width.__struct_fields__
    if table is INVALID:
        return None
    if not isinstance(table, Table) or "scale" not in table or any(key not in fields for key in table):
        keys = ", ".join(f"`{key}`" for key in table) if isinstance(table, Table) else ""
        expected = f"a table {{ {', '.join(fields)} }}"
        problems.append(Problem(str(merged.origins["width"]), expected, f"the keys {keys}" if keys else shown(table)))
        return None
    issues: list[Issue] = []
    values = complete(table, WIDTH_SCHEMA, ("width",), issues, complete_call)
    problems += [Problem(str(origin_of(merged, issue.path)), *issue[1:]) for issue in issues]
    return None if issues or INVALID in values.values() else Width(**values)


def scaled(width: int, scale: float, step: int) -> int:
    """`width * scale` to the nearest multiple of `step`, at least `step`, and never below nine tenths of it."""
    exact = width * scale
    rounded = max(step, int(exact + step / 2) // step * step)
    return rounded + step if rounded < 0.9 * exact else rounded
